"""RLOO and GRPO: groups of responses to one prompt."""

import ast
import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny import make_lm
from transformers import AutoModelForCausalLM

import plaudit
from plaudit.algorithms.grpo import OBJECTIVE, Config, grpo, grpo_batch
from plaudit.algorithms.rloo import rloo
from plaudit.batches import Responses, Rollout
from plaudit.config import build
from plaudit.errors import ConfigError
from plaudit.maths.advantages import group_advantages, leave_one_out
from plaudit.maths.masked import unflatten
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import join_prompts
from plaudit.pipeline import check
from plaudit.training.rollouts import penalised_loss
from plaudit.training.run import Run

SOURCE = Path(plaudit.__file__).parent
ALGORITHMS = {"rloo": rloo, "grpo": grpo}


@pytest.fixture
def make(tmp_path, finished_run, tiny_config):
    """A function that makes a run with a trained SFT model and reward model."""

    def make(stage, name="run", engine="auto", **settings):
        small = {"iterations": 4, "batch_size": 16, "minibatch_size": 16, "max_new_tokens": 16, "save_every": 2}
        part = dataclasses.replace(getattr(tiny_config, stage), **small | {"group_size": 4} | settings)
        for needed in ("sft", "reward_model"):
            shutil.copytree(finished_run / needed, tmp_path / name / needed)
        return Run(tmp_path / name, dataclasses.replace(tiny_config, engine=engine, **{stage: part}))

    return make


def low_letters(prompts, responses):
    """The share of the letters a to m in each response."""
    return [sum(c in "abcdefghijklm" for c in response) / max(len(response), 1) for response in responses]


def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert leave_one_out(rewards, 3).tolist() == [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]
    assert group_advantages(rewards, 3, scale=False).tolist() == [-2.0, -1.0, 3.0, -1.0, -1.0, 2.0]
    scaled = group_advantages(rewards, 3, scale=True)
    assert scaled.tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5, -(3**-0.5), -(3**-0.5), 2 / 3**0.5])


@pytest.mark.parametrize("apart", [0.0, 1e-8, 1e-7])
@pytest.mark.parametrize("value", [0.0, 0.3, -5.0, 1e4])
def test_equal_rewards_teach_nothing(value, apart):
    rewards = torch.full((8,), value) * (1 + apart * torch.arange(8)) + apart * torch.arange(8)
    assert group_advantages(rewards, 4, scale=True).abs().max() == 0
    assert leave_one_out(rewards, 4).abs().max() <= 1e-5 * max(1, abs(value))


def test_a_tokens_share_of_the_loss():
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    responses = Responses(torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool), mask, mask[:, 0])
    zero, scores = torch.zeros(2, 4), torch.tensor([3.0, 1.0])
    rollout = Rollout(responses, zero, zero, zero, zero, zero, scores, scores)

    def advantages(normalise):
        settings = Config(group_size=2, scale_by="none", normalise=normalise, max_new_tokens=8)
        return grpo_batch(rollout, 0.1, settings).advantages.tolist()

    assert advantages("token") == [[1, 1, 1, 1], [-1, 0, 0, 0]]
    assert advantages("sequence") == [[0.25, 0.25, 0.25, 0.25], [-1, 0, 0, 0]]
    assert advantages("constant") == [[0.125, 0.125, 0.125, 0.125], [-0.125, 0, 0, 0]]


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
@pytest.mark.parametrize("added", [{"kl_estimator": "k3"}, {"kl_estimator": "full"}, {"entropy_coef": 0.3}])
def test_a_token_has_the_same_share_of_the_penalty_as_of_the_loss(tiny_lm, normalise, added):
    """The advantages are 0, so the whole loss is the penalty or the bonus."""
    policy, reference = Policy(tiny_lm, PlainEngine(), value_head=False), make_lm(seed=3).eval()
    responses = join_prompts([([5, 6], [7, 8, 9, 4, 3]), ([5], [8, 0])], [False, True], 0)
    mask, settings = responses.response_mask, Config(group_size=2, normalise=normalise, max_new_tokens=8, **added)
    found = policy.engine.compare(policy.lm, reference, responses, settings.temperature)
    zero, scores = torch.zeros(mask.shape), torch.zeros(2)
    rollout = Rollout(responses, unflatten(found.logprobs, mask), zero, zero, zero, zero, scores, scores)
    batch = grpo_batch(rollout, 0.0, settings)
    kl_coef = 0.0 if settings.entropy_coef else 0.7
    (total, count), _ = penalised_loss(OBJECTIVE, policy, reference, batch, kl_coef, settings)
    each = -0.3 * found.entropy if settings.entropy_coef else 0.7 * found.estimate(settings.kl_estimator)
    lengths = torch.tensor([5.0] * 5 + [2.0] * 2)
    mean = {
        "token": each.mean(),
        "sequence": (each / lengths).sum() / 2,
        "constant": each.sum() / 2 / 8,
    }[normalise]
    assert (total / count).item() == pytest.approx(mean.item(), rel=1e-5)


@pytest.mark.parametrize("stage", ALGORITHMS)
def test_the_responses_of_a_group_have_one_prompt(make, stage):
    run = make(stage, iterations=1)
    list(ALGORITHMS[stage](run, low_letters))
    rows = [json.loads(line) for line in (run.folder(stage) / "rollouts.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]
    assert len(prompts) == 16
    assert all(len({*prompts[i : i + 4]}) == 1 for i in range(0, 16, 4))
    assert len({*prompts}) > 1
    assert len({row["response"] for row in rows}) > 4


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("stage", ALGORITHMS)
def test_the_score_rises_on_an_easy_reward(make, stage, engine):
    lr = {"rloo": 5e-3, "grpo": 2e-3}[stage]
    run = make(stage, engine=engine, iterations=10, batch_size=32, minibatch_size=32, lr=lr)
    scores = [report.metrics["score"] for report in ALGORITHMS[stage](run, low_letters)]
    assert min(scores[-3:]) > scores[0] + 0.15  # the first is from before any update
    assert AutoModelForCausalLM.from_pretrained(run.folder(stage)).config.model_type == "gpt2"


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("rloo", {}),
        ("grpo", {"minibatch_size": 8}),
        ("grpo", {"kl_in": "loss", "kl_estimator": "full", "entropy_coef": 0.01, "normalise": "sequence"}),
    ],
)
def test_resumed_it_equals_an_uninterrupted_run_byte_for_byte(make, stage, settings):
    whole, stopped = (make(stage, name, **settings) for name in ("whole", "stopped"))
    list(ALGORITHMS[stage](whole))
    reports = ALGORITHMS[stage](stopped)
    list(itertools.islice(reports, 3))  # past the checkpoint of iteration 2
    reports.close()
    assert [report.step for report in ALGORITHMS[stage](stopped)] == [3, 4]
    for name in ("model.safetensors", "metrics.jsonl", "rollouts.jsonl"):
        pair = [(run.folder(stage) / name).read_bytes() for run in (whole, stopped)]
        assert pair[0] == pair[1], name


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_a_strong_penalty_in_the_loss_holds_the_policy(make, engine):
    kl = {}
    for coef in (0.0, 20.0):
        settings = {"kl_in": "loss", "kl_estimator": "full", "kl_coef": coef, "iterations": 8, "lr": 2e-3}
        run = make("grpo", f"run {coef}", engine, **settings)
        kl[coef] = [report.metrics["kl"] for report in grpo(run, low_letters)][-1]
    assert kl[20.0] < 0.2 * kl[0.0]


def test_an_entropy_bonus_keeps_the_entropy(make):
    entropy = {}
    for coef in (0.0, 5.0):
        run = make("rloo", f"run {coef}", entropy_coef=coef, iterations=8, lr=5e-3)
        entropy[coef] = [report.metrics["entropy"] for report in rloo(run, low_letters)][-1]
    assert entropy[5.0] > entropy[0.0] + 0.3


def test_a_batch_is_whole_groups():
    with pytest.raises(ConfigError, match=r"grpo.batch_size = 20 is not a multiple of grpo.group_size = 8"):
        build({"grpo.batch_size": 20, "grpo.minibatch_size": 4})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"kl_estimator": "k3"}, "the gradient of the penalty k3 in the reward is not that of KL"),
        ({"kl_in": "loss"}, "the gradient of the penalty k1 in the loss is 0 on average"),
        ({"kl_in": "loss", "kl_estimator": "k3"}, r"is that of KL\(reference || policy\)"),
        ({"kl_in": "loss", "kl_estimator": "k3", "kl_coef": 0.0}, ""),
    ],
)
def test_a_biased_gradient_is_named_before_training(make, settings, words):
    run = make("grpo", **settings)
    lines = [line for line in check(run.config, run.path, ("grpo",)) if "penalty" in line]
    assert len(lines) == bool(words)
    assert all(words.replace("\\", "") in line for line in lines)
    first, *later = [report.warnings for report in grpo(run, low_letters)]
    assert [f"grpo: {line}" for line in first] == lines
    assert not any(later)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_one_file_and_one_line_of_the_list(name):
    """Adding an algorithm touches nothing else, except to make its name public."""
    mentions = {
        str(path.relative_to(SOURCE)): [
            line for line in text.splitlines() if re.search(rf"\b{name}\b", line, re.IGNORECASE)
        ]
        for path in SOURCE.rglob("*.py")
        if re.search(rf"\b{name}\b", text := path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    assert mentions.keys() == {f"algorithms/{name}.py", "config.py", "__init__.py"}
    assert len(mentions["config.py"]) == 1
    file = (SOURCE / "algorithms" / f"{name}.py").read_text(encoding="utf-8")
    assert len(file.splitlines()) <= 120
    generators = [
        node.name
        for node in ast.parse(file).body
        if isinstance(node, ast.FunctionDef) and any(isinstance(n, ast.Yield) for n in ast.walk(node))
    ]
    assert generators == [name]
