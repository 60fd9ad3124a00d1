"""What is said of the answers is what the engines, the reward, the judge and the evaluation say."""

import dataclasses
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_chat_tokenizer, make_lm, make_tokenizer_of

from plaudit import rng
from plaudit.answering.models import Sides, noise_for, pieces
from plaudit.chat.session import Sampling
from plaudit.errors import ConversationError, ModelError
from plaudit.evaluation.evaluate import sample
from plaudit.models.loading import save
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Message
from plaudit.training.rollouts import generate
from plaudit.training.run import Run

SAMPLING = Sampling(temperature=0.7, seed=5, max_new_tokens=12, answers=3)
PROMPT = "the cast"


def silent(done, total, what):
    pass


@pytest.fixture(scope="module")
def opened(finished_run):
    return Sides(Run.existing(finished_run), ("sft", "ppo"), silent)


def answers_of(sides, sampling=SAMPLING, prompt=PROMPT):
    return [sides.answer(side, prompt, sampling, noise_for(sampling, str(prompt), 0)) for side in sides.sides]


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_probabilities_are_those_of_the_engine(opened, temperature):
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    for side, rows in zip(opened.sides, answers_of(opened, sampling), strict=True):
        ids = opened.tokenizer.prompt(PROMPT)
        for row in rows:
            whole = torch.tensor([[*ids, *row["ids"]]])
            mask = torch.ones(1, len(row["ids"]), dtype=torch.bool)
            everything = torch.ones_like(whole, dtype=torch.bool)
            expected, _ = side.engine.logprobs(side.lm, whole, everything, mask, temperature)
            torch.testing.assert_close(torch.tensor(row["logprobs"]), expected.detach(), rtol=1e-4, atol=1e-5)
            logits = side.lm(whole).logits[0, len(ids) - 1 : -1] / temperature
            likeliest = torch.log_softmax(logits, -1).topk(5)
            found = torch.tensor([[p for _, p, _ in place] for place in row["alternatives"]])
            torch.testing.assert_close(found, likeliest.values.detach(), rtol=1e-4, atol=1e-5)
            assert [[id for _, _, id in place] for place in row["alternatives"]] == likeliest.indices.tolist()


def test_answers_and_scores_are_those_of_plaudit_sample(opened, finished_run):
    run = Run.existing(finished_run)
    sampling = Sampling(run.config.ppo.temperature, 5, 12, 3)
    expected = sample(finished_run, PROMPT, 3, seed=5, max_new_tokens=12)
    before, after = answers_of(opened, sampling)
    for row, first, second in zip(expected, before, after, strict=True):
        assert (first["text"], second["text"]) == (row["sft"], row["policy"])
        assert first["score"] == pytest.approx(row["sft_score"], abs=1e-5)
        assert second["score"] == pytest.approx(row["policy_score"], abs=1e-5)


def test_a_seed_reproduces_an_answer_and_another_one_does_not(opened):
    assert answers_of(opened) == answers_of(opened)
    other = answers_of(opened, dataclasses.replace(SAMPLING, seed=6))
    assert [row["ids"] for row in other[0]] != [row["ids"] for row in answers_of(opened)[0]]
    assert not torch.equal(noise_for(SAMPLING, "hello", 0), noise_for(SAMPLING, "hello", 1))


def test_the_reference_has_no_kl_from_itself_and_the_policy_some(opened):
    before, after = answers_of(opened)
    for row in before + after:
        assert row["kl"] == pytest.approx(sum(row["token_kl"]), abs=1e-4)
    assert [row["kl"] for row in before] == pytest.approx([0.0] * 3, abs=1e-5)
    assert all(row["kl"] > 1e-4 for row in after)
    assert all(row["logprobs"] == pytest.approx(row["ref_logprobs"], abs=1e-5) for row in before)


def test_the_judge_is_that_of_the_run(opened):
    texts = [row["text"] for row in answers_of(opened)[1]]
    if opened.judge is None:
        assert opened.no_judge
    else:
        expected = opened.judge.positive(texts, [PROMPT] * 3)
        assert [row["judge"] for row in answers_of(opened)[1]] == pytest.approx(expected.tolist())


def test_the_pieces_are_the_text(opened):
    for rows in answers_of(opened, dataclasses.replace(SAMPLING, temperature=5.0, answers=4)):
        for row in rows:
            assert "".join(row["pieces"]) == row["text"]
            assert len(row["pieces"]) == len(row["ids"]) == len(row["logprobs"]) == len(row["alternatives"])


@settings(max_examples=40)
@given(
    st.sampled_from(["byte-level", "byte-level without bos", "metaspace", "wordpiece"]),
    st.text("abcdé ñ€ü漢🎬\n.", min_size=1, max_size=12),
)
def test_pieces_join_to_the_continuation_for_every_kind_of_tokenizer(kind, text):
    tokenizer = Tokenizer.of(make_tokenizer_of(kind))
    prompt = tokenizer.prompt("a warm film")
    *_, response = tokenizer.demonstration("a warm film", text)
    found = pieces(tokenizer, prompt, response)
    assert len(found) == len(response)
    if "byte" in kind:
        assert "".join(found) == tokenizer.continuation(prompt, response)
    else:  # decoders of these drop or add spaces at a boundary
        assert "".join(found).split() == tokenizer.continuation(prompt, response).split() or "\n" in text


def test_a_prompt_without_room_for_the_answer_is_refused(opened):
    with pytest.raises(ModelError, match="do not fit into the model's window of 64 tokens"):
        answers_of(opened, dataclasses.replace(SAMPLING, max_new_tokens=64))


def test_the_evaluations_prompts_leave_room(opened):
    found = opened.evaluation_prompts()
    assert 2 <= len(found) <= opened.run.config.evaluation.prompts
    assert all(isinstance(prompt, str) for prompt in found)


def test_without_a_reward_model_there_are_answers_and_the_reason(bare_run):
    run = bare_run()
    shutil.rmtree(run.folder("reward_model"))
    sides = Sides(run, ("model", "sft"), silent)
    assert "no finished reward_model here; run: plaudit reward-model" in sides.no_score
    before, after = answers_of(sides)
    assert "score" not in before[0]
    assert before[0]["kl"] > 0
    assert after[0]["kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("names", [("sft", "sft"), ("model", "model"), ("sft", "model")])
def test_any_two_models_of_a_run_may_answer(bare_run, names):
    before, after = answers_of(Sides(bare_run(), names, silent))
    assert (before == after) == (names[0] == names[1])
    assert "score" in before[0]


def test_a_reward_function_with_parts_scores_and_one_that_fails_is_named(bare_run, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def length(prompts, responses):\n    return [float(len(r)) for r in responses]\n"
        "def broken(prompts, responses):\n    raise ValueError('no idea')\n"
    )
    run = bare_run()
    parts = dataclasses.replace(run.config, reward=(f"{file}:length=0.5", "model=1"))
    rows = answers_of(Sides(Run(run.path, parts), ("sft", "sft"), silent))[0]
    for row in rows:
        assert row["parts"]["length"] == len(row["text"])
        assert row["score"] == pytest.approx(0.5 * row["parts"]["length"] + row["parts"]["model"], rel=1e-5)
    failing = dataclasses.replace(run.config, reward=(f"{file}:broken",))
    rows = answers_of(Sides(Run(run.path, failing), ("sft", "sft"), silent))[0]
    assert "score" not in rows[0]
    assert "no idea" in rows[0]["no_score"]
    missing = dataclasses.replace(run.config, reward=(f"{file}:nothing",))
    assert "has no function 'nothing'" in Sides(Run(run.path, missing), ("sft", "sft"), silent).no_score


@pytest.fixture
def foreign(tmp_path):
    """A model with other tokens."""
    folder = tmp_path / "foreign"
    tokenizer = Tokenizer.of(make_tokenizer_of("metaspace"))
    save(make_lm(vocab=len(tokenizer.hf), seed=3), tokenizer, folder)
    return str(folder)


def test_a_model_with_other_tokens_is_scored_by_its_text_and_has_no_kl(bare_run, foreign):
    sides = Sides(bare_run(), ("sft", foreign), silent)
    before, after = answers_of(sides)
    assert "kl" in before[0]
    assert "kl" not in after[0]
    for row in after:
        *_, response = sides.tokenizer.demonstration(PROMPT, row["text"])
        response = response if row["ended"] or len(response) == 1 else response[:-1]
        ids = torch.tensor([[*sides.tokenizer.prompt(PROMPT), *response]])
        with torch.no_grad():
            logit = sides.models.reward_model(ids, torch.ones_like(ids, dtype=torch.bool))
        assert row["score"] == pytest.approx(2 * torch.sigmoid(logit).item() - 1, abs=1e-4)


@pytest.fixture
def chatting(bare_run, tmp_path):
    """A run on dialogues."""
    run = bare_run()
    tokenizer = Tokenizer.of(make_chat_tokenizer()).for_dialogues()
    for seed, stage in enumerate(("sft", "reward_model")):
        if stage == "sft":
            save(make_lm(vocab=302, window=256, seed=seed), tokenizer, run.folder(stage))
            run.finish(stage, {"chat": True})
    shutil.rmtree(run.folder("reward_model"))
    return run


def test_each_side_of_a_dialogue_reads_its_own_turns(chatting):
    sides = Sides(chatting, ("sft", "sft"), silent)
    assert sides.chats
    short = dataclasses.replace(SAMPLING, answers=1)
    question = (Message("user", "hello"),)
    longer = (*question, Message("assistant", "a warm film"), Message("user", "why?"))
    noise = noise_for(short, "why?", 1)
    (row,) = sides.answer(sides.sides[0], longer, short, noise)
    ids = sides.tokenizer.prompt(longer)
    assert ids[: len(sides.tokenizer.prompt(question))] == sides.tokenizer.prompt(question)
    with torch.no_grad():
        policy = Policy(sides.sides[0].lm, sides.sides[0].engine, value_head=False)
        expected = generate(policy, [ids], noise, sides.tokenizer, short.temperature)
    assert row["ids"] == expected.tokens()[0]


def test_a_dialogue_that_the_template_refuses_is_one_line(chatting):
    sides = Sides(chatting, ("sft", "sft"), silent)
    hf = sides.tokenizer.hf
    hf.chat_template = "{{ raise_exception('only one turn') }}"
    refusing = dataclasses.replace(sides.sides[0], tokenizer=Tokenizer.of(hf))
    with pytest.raises(ConversationError, match="only one turn"):
        sides.answer(refusing, (Message("user", "hello"),), SAMPLING, noise_for(SAMPLING, "hello", 0))


def test_answers_are_plain_json(opened):
    assert json.loads(json.dumps(answers_of(opened)[0]))[0]["text"] == answers_of(opened)[0][0]["text"]


def test_the_noise_is_that_of_sample():
    expected = rng.uniforms(range(3), 12, 5, "sample", 0, "hello")
    assert torch.equal(noise_for(SAMPLING, "hello", 0), expected)
