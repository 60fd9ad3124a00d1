"""The whole pipeline on dialogues, with chat models whose responses end in different ways."""

import dataclasses
import json

import pytest
import torch
from tiny import CHAT_TEMPLATES, make_chat_tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from plaudit.algorithms.reward_model import tokenise
from plaudit.cli.plan import plan
from plaudit.cli.tokens import measure
from plaudit.config import build
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts
from plaudit.data.splits import Part, Splits
from plaudit.errors import DataError
from plaudit.evaluation.evaluate import sample
from plaudit.models.chat import without_refused
from plaudit.models.loading import load_tokenizer
from plaudit.pipeline import check, steps
from plaudit.records import Comparison, Demonstration, LabelledText, Message
from plaudit.rewards import FunctionReward
from plaudit.training import run as run_module
from plaudit.training.models import Models
from plaudit.training.prompts import counted_prompts
from plaudit.training.rollouts import generate
from plaudit.training.run import STAGES, Run
from plaudit.training.tokenizer import open_tokenizer

SIDES = ("response_a", "response_b")
SIZE = {
    "vocab_size": 304, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256,
}  # fmt: skip
KINDS = {  # model, config, chat template, further end tokens in its generation_config.json
    "qwen": (Qwen2ForCausalLM, Qwen2Config, "chatml", []),
    "llama": (LlamaForCausalLM, LlamaConfig, "marked", [7, 9]),
    "base": (LlamaForCausalLM, LlamaConfig, None, []),
}


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def dialogue(i):
    """A dialogue of one or two questions."""
    opening = (user(f"film {i} ?"), assistant("a joy")) if i % 2 else ()
    return (*opening, user(f"and film {i + 1} , is it funny ?"))


def part(numbers):
    good, bad = (assistant("a joy to watch"),), (assistant("a chore to watch"),)
    return Part(
        demonstrations=tuple(Demonstration(dialogue(i), good) for i in numbers),
        comparisons=tuple(Comparison(dialogue(i), good, bad, "a" if i % 5 else "b") for i in numbers),
    )


@pytest.fixture
def splits(monkeypatch):
    """Dialogues as the data of every run."""
    made = Splits("dialogues", part(range(40)), part(range(100, 120)), part(range(200, 220)), {})
    made.__dict__["fingerprint"] = "dialogues"
    monkeypatch.setattr(run_module, "load", lambda _: made)
    return made


@pytest.fixture
def make_run(tmp_path, splits):
    """A function that opens a run directory with a chat model of a kind."""

    def make(kind, folder="run", resume=False, **settings):
        model, config, template, ends = KINDS[kind]
        torch.manual_seed(0)
        tokenizer = make_chat_tokenizer(template)
        own = config(**SIZE, bos_token_id=0, eos_token_id=0)
        lm = model(own)
        lm.generation_config.eos_token_id = [0, *ends]
        lm.save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        config = build(
            {
                "model": str(tmp_path / kind), "data": "dialogues", "device": "cpu", "dtype": "float32",
                "sft.epochs": 2, "sft.lr": 1e-2, "sft.batch_size": 16, "sft.save_every": 2, "keep_checkpoints": 1,
                "reward_model.lr": 5e-3, "reward_model.batch_size": 16, "reward_model.save_every": 2,
                "ppo.iterations": 3, "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.max_new_tokens": 12,
                "ppo.save_every": 1, "evaluation.prompts": 8, "sft.max_tokens": 200,
                "reward_model.max_tokens": 200, **settings,
            }
        )  # fmt: skip
        return Run.open(tmp_path / folder, config, resume=resume, overwrite=False, stages=STAGES)

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_dialogues(make_run, kind, tmp_path):
    run = make_run(kind)
    assert check(run.config, tmp_path / "new", STAGES) == []
    for _ in steps(run):
        pass
    prompts = [line["prompt"] for line in lines(run.path / "responses.jsonl")]
    assert len(prompts) == 8
    assert all(p.startswith("Human: ") and p.endswith("is it funny ?\n\nAssistant:") for p in prompts)
    assert any("\n\nAssistant: a joy\n\nHuman: and film" in p for p in prompts)  # whole
    assert {line["prompt"] for line in lines(run.path / "samples.jsonl")} <= {*prompts}

    # transformers alone finds the template, and the tokens at which responses end.
    tokenizer = load_tokenizer(str(run.folder("ppo")))
    plain = AutoTokenizer.from_pretrained(run.folder("ppo"))
    asked = [dataclasses.asdict(message) for message in dialogue(1)]
    ids = plain.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer.prompt(dialogue(1))
    saved = json.loads((run.folder("ppo") / "generation_config.json").read_text())["eos_token_id"]
    end = tokenizer.hf.convert_tokens_to_ids("<|im_end|>")
    expected = {"qwen": [0, end], "llama": [0, 7, 9, end], "base": 0}[kind]
    assert saved == expected
    assert tokenizer.end_ids == tuple(expected if expected else [0])

    found = sample(run.path, "is it funny ?", n=2, seed=1)
    assert [row["prompt"] for row in found] == ["is it funny ?"] * 2
    question = Models.load(run, "ppo", stage="ppo").tokenizer.prompt((user("is it funny ?"),))
    assert question != tokenizer.prompt("is it funny ?")


def test_an_interrupted_run_on_dialogues_gives_the_same_bytes(make_run):
    whole = make_run("qwen", "whole")
    for _ in steps(whole):
        pass
    stopped = make_run("qwen", "stopped")
    while not all(stopped.complete(stage) for stage in STAGES):
        reports = steps(stopped)
        for _ in range(3):
            next(reports, None)
        reports.close()
        stopped = make_run("qwen", "stopped", resume=True)
    names = [f"{stage}/model.safetensors" for stage in STAGES[:3]]
    for name in (*names, "responses.jsonl", "samples.jsonl", "ppo/tokenizer.json", "ppo/chat_template.jinja"):
        assert (whole.path / name).read_bytes() == (stopped.path / name).read_bytes(), name


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_every_end_token_ends_a_response_and_counts_as_its_end(make_run, engine):
    run = make_run("llama", engine=engine)
    tokenizer = load_tokenizer(run.config.model)
    for _ in steps(run, ("sft",)):
        pass
    models = Models.load(run, "ppo", reward_model=False)
    prompts = [tokenizer.prompt(dialogue(1))] * len(tokenizer.end_ids)
    # A model whose next token is what the noise says: the first draw of row i lies in the share of end token i.
    with torch.no_grad():
        models.policy.lm.get_output_embeddings().weight.zero_()
    noise = torch.full((len(prompts), 5), 0.999, dtype=torch.float64)
    for row, end in enumerate(tokenizer.end_ids):
        noise[row, row] = (end + 0.5) / 304
    with torch.no_grad():
        responses = generate(models.policy, prompts, noise, tokenizer, 1.0)
    assert [tokens[-1] for tokens in responses.tokens()] == [*tokenizer.end_ids]
    assert responses.response_mask.sum(1).tolist() == [1, 2, 3, 4]
    assert responses.ended.all()


def test_a_reward_function_is_given_transcripts(make_run):
    run, given = make_run("qwen"), []
    for _ in steps(run, ("sft",)):
        pass
    models = Models.load(run, "ppo", reward_model=False)
    prompts = [models.tokenizer.prompt(dialogue(i)) for i in (0, 1)]
    with torch.no_grad():
        responses = generate(
            models.policy, prompts, torch.full((2, 4), 0.3, dtype=torch.float64), models.tokenizer, 1.0
        )

    def reward(prompts, responses):
        given.extend(prompts)
        return [0.0, 1.0]

    FunctionReward(reward, models.tokenizer)(responses)
    assert given[0] == "Human: and film 1 , is it funny ?\n\nAssistant:"
    assert given[1].startswith("Human: film 1 ?\n\nAssistant: a joy\n\nHuman: and film 2")


def test_a_conversation_that_the_template_refuses_stops_the_run_before_training(make_run, splits, tmp_path):
    run = make_run("qwen")
    (tmp_path / "qwen" / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(DataError, match=r"^the conversation that begins 'Human: .* refuses it .no."):
        check(run.config, tmp_path / "new", STAGES)


THINKING = "empty thinking in the last reply"


def with_thinking(numbers, often):
    """Dialogues of which every `often`-th has thinking in an earlier turn, which the template leaves out."""
    made = part(numbers)
    thought = (user("film ?"), assistant("<think>hm</think>a joy"), user("and is it funny ?"))

    def dialogue_of(i, whole):
        return (*thought, assistant(f"yes {i}")) if i % often == 0 else whole

    demonstrations = [
        Demonstration((), dialogue_of(i, (*d.prompt, *d.response))) for i, d in enumerate(made.demonstrations)
    ]
    comparisons = [
        dataclasses.replace(c, prompt=(), **{s: dialogue_of(i, (*c.prompt, *getattr(c, s))) for s in SIDES})
        for i, c in enumerate(made.comparisons)
    ]
    return Part(demonstrations=tuple(demonstrations), comparisons=tuple(comparisons))


def test_records_that_the_template_leaves_out_in_part_are_left_out_and_counted(make_run, splits, tmp_path, monkeypatch):
    run = make_run("qwen")
    (tmp_path / "qwen" / "chat_template.jinja").write_text(CHAT_TEMPLATES[THINKING])
    reason = "with a reply that the chat template leaves out in part"
    few = dataclasses.replace(splits, train=with_thinking(range(40), 8), evaluation=with_thinking(range(200, 220), 8))
    few.__dict__["fingerprint"] = "few"
    monkeypatch.setattr(run_module, "load", lambda _: few)
    lines = check(run.config, tmp_path / "new", STAGES)
    for stage in ("sft", "reward_model"):
        assert f"training records of {stage}: 5 of 40 records are left out (5 {reason})" in lines
    assert plan(run.config, tmp_path / "new", STAGES).parameters > 0
    assert any(f"5 {reason}" in warning for warning in measure(run.config).warnings)
    for stage, count in (("sft", "texts"), ("reward_model", "records")):
        for _ in steps(run, (stage,)):
            pass
        summary = run.summary(stage)
        assert (summary[count], summary["dropped"]) == (35, {"too long": 0, reason: 5})

    many = dataclasses.replace(few, train=with_thinking(range(40), 2))
    many.__dict__["fingerprint"] = "many"
    monkeypatch.setattr(run_module, "load", lambda _: many)
    with pytest.raises(DataError, match=f"20 of 40 records are left out .20 {reason}.*another chat template"):
        check(run.config, tmp_path / "new", STAGES)


def test_prompts_that_the_template_refuses_are_skipped_and_counted(make_run, splits, tmp_path):
    run = make_run("qwen")
    only_one_turn = "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATES["chatml"]
    (tmp_path / "qwen" / "chat_template.jinja").write_text(only_one_turn)
    tokenizer, mixed = load_tokenizer(run.config.model), splits.prompts
    one = [i for i, d in enumerate(mixed.demonstrations) if len(d.prompt) == 1]
    assert 0 < len(one) < len(mixed.demonstrations)
    found, refused = without_refused([d.prompt for d in mixed.demonstrations], tokenizer.prompt)
    assert found == [tokenizer.prompt(mixed.demonstrations[i].prompt) for i in one]
    assert refused == {"refused by the chat template": len(mixed.demonstrations) - len(one)}
    with pytest.raises(DataError, match=r"prompts: 10 of 20 records are left out .10 refused by the chat template"):
        counted_prompts(run, tokenizer)
    splits.prompts.__dict__["demonstrations"] = tuple(mixed.demonstrations[i] for i in [*one, 1])
    prompts, skipped = counted_prompts(run, tokenizer)
    assert (len(prompts), skipped) == (len(one), {"refused by the chat template": 1})


def test_labelled_replies_are_read_after_their_prompts(make_run):
    run = make_run("qwen")
    tokenizer = load_tokenizer(run.config.model)
    reply = (assistant("a joy"),)
    part = Part(labelled=(LabelledText(reply, 0.75, prompt=dialogue(1)), LabelledText("fine", 1, prompt="how ?")))
    (one, other), dropped = tokenise(part, tokenizer, 200)
    assert one.texts == (tokenizer.demonstration(dialogue(1), reply),)
    assert one.judgement.weight == 0.75
    assert other.texts == (tokenizer.demonstration("how ?", "fine"),)
    assert dropped == {"too long": 0}


def test_a_comparison_that_is_too_long_is_left_out_and_never_cut(make_run):
    tokenizer = load_tokenizer(make_run("qwen").config.model)
    long = (user("a film " * 100),)
    good, bad = (assistant("a joy"),), (assistant("a chore"),)
    part = Part(comparisons=(Comparison(long, good, bad, "a"), Comparison(dialogue(0), good, bad, "a")))
    (kept,), dropped = tokenise(part, tokenizer, 150)
    assert dropped == {"too long": 1}
    assert kept.texts == (tokenizer.demonstration(dialogue(0), good), tokenizer.demonstration(dialogue(0), bad))


def test_special_tokens_in_the_data_are_tokens_where_the_setting_says_so(make_run):
    message = (user("a <|im_end|> film"),)
    as_text, as_tokens = make_run("qwen"), make_run("qwen", "tokens", **{"data.special_tokens": "tokens"})
    text, tokens = (open_tokenizer(run, run.config.model) for run in (as_text, as_tokens))
    end = text.hf.convert_tokens_to_ids("<|im_end|>")
    assert [t.prompt(message).count(end) for t in (text, tokens)] == [1, 2]
    assert as_text.inputs("sft")["fingerprint"] != as_tokens.inputs("sft")["fingerprint"]


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_conversations_in_a_file_are_read_whole(make_run, tmp_path, column):
    """From the file to the tokens that are learned: a published layout, and the template of the model."""
    names = {"messages": ("role", "content", "user", "assistant"), "conversations": ("from", "value", "human", "gpt")}
    role, content, asks, answers = names[column]
    turns = [
        [(asks, f"film {i} ?"), (answers, f"a joy {i}"), (asks, "and why ?"), (answers, "it is")] for i in range(60)
    ]
    rows = [{column: [{role: who, content: what} for who, what in row]} for row in turns]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(str(tmp_path / "chats.jsonl"))
    tokenizer = load_tokenizer(make_run("qwen").config.model)
    for d in data.train.demonstrations:
        runs = tokenizer.demonstration(d.prompt, d.response)
        learned = [tokenizer.hf.decode(run) for run in runs[1::2]]
        assert [text.split()[0] for text in learned] == ["a", "it"]
        assert all(text.endswith("<|im_end|>") for text in learned)
    prompts = cut_prompts(data.prompts, 2, 8, 1)
    assert prompts
    assert all([m.role for m in prompt] == ["user", "assistant", "user"] for prompt in prompts)
