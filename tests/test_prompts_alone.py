"""Prompts without responses as data: policies are trained from the model as it is, for a reward of one's own."""

import json

import pytest
import torch
from tiny import make_chat_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from plaudit.cli import main
from plaudit.config import build
from plaudit.data.corpus import load
from plaudit.errors import DataError
from plaudit.pipeline import check, stages_for, steps
from plaudit.rewards import sources_of
from plaudit.training.prompts import training_prompts
from plaudit.training.run import STAGES, Run
from plaudit.training.tokenizer import open_tokenizer

SMALL = {
    "device": "cpu", "dtype": "float32", "ppo.iterations": 2, "ppo.batch_size": 8, "ppo.minibatch_size": 8,
    "ppo.max_new_tokens": 6, "evaluation.prompts": 8,
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """A random chat model of two layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=304, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    make_chat_tokenizer("chatml").save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": f"why is film {i} funny ?"}) + "\n" for i in range(60)))
    return str(file)


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def same_weights(one, other):
    models = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (one, other)]
    return all(torch.equal(weights, models[1][name]) for name, weights in models[0].items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_is_trained_from_the_model_as_it_is(tmp_path, model, questions, dtype):
    config = build({"model": model, "data": questions, **SMALL, "dtype": dtype})
    stages = stages_for(STAGES, sources_of(length, ()))
    assert check(config, tmp_path / "new", stages, length) == []
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=STAGES)
    reports = list(steps(run, reward=length))
    assert {report.stage for report in reports} == {"ppo", "evaluation"}
    assert same_weights(run.folder("sft"), model)
    assert not same_weights(run.folder("ppo"), model)
    summary = json.loads((run.folder("sft") / "summary.json").read_text())
    assert (summary["texts"], summary["perplexity"]) == (0, None)
    seen = {line["prompt"] for line in map(json.loads, (run.folder("ppo") / "rollouts.jsonl").read_text().splitlines())}
    answered = {line["prompt"] for line in map(json.loads, (run.path / "responses.jsonl").read_text().splitlines())}
    assert all(prompt.endswith("funny ?\n\nAssistant:") for prompt in seen | answered)
    assert not seen & answered


def test_all_prompts_but_the_held_out_ones_are_trained_on(tmp_path, model, questions):
    run = Run(tmp_path / "run", build({"model": model, "data": questions}))
    parts = load(questions).parts
    asked = {each.prompt for name in ("train", "prompts") for each in parts[name].to_answer}
    assert {*training_prompts(run, open_tokenizer(run, model))[0]} == asked
    assert 40 < len(asked) < 60


def test_a_reward_model_needs_something_that_was_judged(tmp_path, model, questions):
    config = build({"model": model, "data": questions, **SMALL})
    with pytest.raises(DataError, match="neither labels nor comparisons"):
        check(config, tmp_path / "run", STAGES)


def test_without_epochs_sft_keeps_the_model_and_measures_it(tmp_path, model):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"film {i} is a joy to watch\n" for i in range(60)))
    run = Run.open(
        tmp_path / "run",
        build({"model": model, "data": str(texts), "sft.epochs": 0, **SMALL}),
        resume=False,
        overwrite=False,
        stages=STAGES,
    )
    assert list(steps(run, ["sft"])) == []
    summary = json.loads((run.folder("sft") / "summary.json").read_text())
    assert summary["perplexity"] == summary["perplexity_before"] > 1
    assert same_weights(run.folder("sft"), model)


def test_comparisons_beside_prompts_are_still_imitated():
    data = load([{"prompt": f"why {i}", "chosen": "it is warm", "rejected": "no"} for i in range(100)])
    both = load([*(c for part in data.parts.values() for c in part.comparisons), *prompts(range(100, 200))])
    assert sum(len(part.demonstrations) for part in both.parts.values()) == 100
    assert sum(len(part.to_answer) for part in both.parts.values()) == 100


def prompts(numbers):
    return [each for part in load([{"prompt": f"why {i}"} for i in numbers]).parts.values() for each in part.to_answer]


def test_the_command_line_says_so(tmp_path, model, questions, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.py").write_text("def short(prompts, responses):\n    return [-len(r) for r in responses]\n")
    assert main(["data", questions, "--model", model]) == 0
    shown = capsys.readouterr().out
    assert "prompts without a response" in shown
    assert "--reward FILE.py:NAME" in shown
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    given = ["--data", questions, "--model", model, "--reward", "short.py:short", "--out", "run"]
    assert main(["run", *given, *flags]) == 0
    assert "sft: nothing to imitate, the model as it is" in capsys.readouterr().err
