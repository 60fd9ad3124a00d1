import dataclasses
import itertools
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from plaudit.algorithms.reinforce import reinforce, reinforce_advantages
from plaudit.batches import Responses, Rollout
from plaudit.config import build
from plaudit.training.run import Run


@pytest.fixture
def make(tmp_path, finished_run, tiny_config):
    """A function that makes a run with a trained SFT model and reward model."""

    def make(name="run", engine="auto", **settings):
        small = {"iterations": 4, "batch_size": 16, "minibatch_size": 16, "max_new_tokens": 16, "save_every": 2}
        part = dataclasses.replace(tiny_config.reinforce, **small | settings)
        for stage in ("sft", "reward_model"):
            shutil.copytree(finished_run / stage, tmp_path / name / stage)
        return Run(tmp_path / name, dataclasses.replace(tiny_config, engine=engine, reinforce=part))

    return make


def low_letters(prompts, responses):
    """The share of the letters a to m in each response."""
    return [sum(c in "abcdefghijklm" for c in response) / max(len(response), 1) for response in responses]


def test_the_baseline_of_a_response_is_the_mean_reward_of_the_others():
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    responses = Responses(torch.zeros(3, 3, dtype=torch.long), torch.ones(3, 3, dtype=torch.bool), mask, mask[:, 0])
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, 0.0], [-3.0, -1.0]])
    ref_logprobs = torch.tensor([[-2.0, -2.0], [-4.0, 0.0], [-3.0, -1.0]])
    zero, scores = torch.zeros(3, 2), torch.tensor([1.0, 2.0, 6.0])
    rollout = Rollout(responses, logprobs, ref_logprobs, zero, zero, logprobs - ref_logprobs, scores, scores)
    # KL of the responses 1, 3 and 0; rewards 0.5, 0.5 and 6; means of the others 3.25, 3.25 and 0.5.
    assert reinforce_advantages(rollout, 0.5).tolist() == [-2.75, -2.75, 5.5]


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_the_score_rises_on_an_easy_reward(make, engine):
    run = make(engine=engine, iterations=10, batch_size=32, minibatch_size=32, lr=5e-3)
    scores = [report.metrics["score"] for report in reinforce(run, low_letters)]
    assert min(scores[-3:]) > scores[0] + 0.2  # the first is from before any update


def test_it_leaves_a_plain_folder_and_logs_every_iteration(make):
    run = make()
    reports = list(reinforce(run))
    assert [(r.stage, r.step, r.total) for r in reports] == [("reinforce", n, 4) for n in (1, 2, 3, 4)]
    folder = run.folder("reinforce")
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "gpt2"
    assert (folder / "tokenizer.json").exists()
    assert not (folder / "value_head.safetensors").exists()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all({"score", "kl", "policy_loss", "grad_norm", "lr"} <= line.keys() for line in lines)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["kl"] > 1e-4
    assert all(line["kl_coef_measured"] == pytest.approx(line["kl_coef"], rel=1e-3) for line in lines[1:])
    assert run.complete("reinforce")
    assert run.summary("reinforce")["reward"] == "reward model"


@pytest.mark.parametrize(("engine", "min_new_tokens"), [("plain", 0), ("fast", 0), ("fast", 3)])
def test_resumed_it_equals_an_uninterrupted_run_byte_for_byte(make, engine, min_new_tokens):
    whole, stopped = (make(name, engine, min_new_tokens=min_new_tokens) for name in ("whole", "stopped"))
    list(reinforce(whole))
    reports = reinforce(stopped)
    list(itertools.islice(reports, 3))  # past the checkpoint of iteration 2
    reports.close()
    assert [report.step for report in reinforce(stopped)] == [3, 4]
    for name in (
        "model.safetensors",
        "metrics.jsonl",
        "rollouts.jsonl",
        "tokens.jsonl",
        "checkpoints/step-00000004/tensors.safetensors",
    ):
        pair = [(run.folder("reinforce") / name).read_bytes() for run in (whole, stopped)]
        assert pair[0] == pair[1], name


def test_its_settings_are_settings_like_any_other():
    assert build({"reinforce.lr": 1e-3}).reinforce.lr == 1e-3
