"""Our losses and gradients beside those of TRL's DPO, CPO, KTO, SFT and reward trainers, on equal tokens.

README.md says how the fixture was made, and what differs and why. Both sides train the models of `small.py` for two
steps of plain gradient descent. The second step starts from the weights that the first left, so it agrees only if every
gradient did.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from plaudit.algorithms.dpo import Config as DPOConfig
from plaudit.algorithms.dpo import Pair, collate_pairs, pair_loss, with_reference
from plaudit.algorithms.kto import Config as KTOConfig
from plaudit.algorithms.kto import kl_of_mismatched, marked_loss
from plaudit.algorithms.reward_model import preference_loss
from plaudit.algorithms.sft import number_of_targets, sft_loss
from plaudit.batches import JudgedBatch, MarkedBatch
from plaudit.maths.losses import dpo_loss, ipo_loss
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import collate
from plaudit.training.offline import nats_of, response_nats
from tests.parity.small import PAD, SEEDS, build
from tests.parity.steps import CASES, FIXTURE, language_model, mean_of, policy_of, same, steps_of

HERE = Path(__file__).parent
CPU = torch.device("cpu")
CHOSEN, REJECTED = 1, 2  # places of a row of pairs, after the prompt


def test_the_fixture_was_made_with_the_pinned_packages():
    pins = (HERE / "requirements-new.txt").read_text(encoding="utf-8").split()
    made_by = FIXTURE["made_by"]
    for name in ("trl", "torch", "transformers", "accelerate", "numpy"):
        assert f"{name}=={made_by[name].split('+')[0]}" in pins


def test_the_cases_hold_what_they_are_for():
    for name, case in CASES.items():
        first, second = case["steps"]
        assert abs(first["loss"] - second["loss"]) > 1e-3, name
        assert max(first["norms"]) > 0.05, name
    assert any(len(chosen) != len(rejected) for _, chosen, rejected in CASES["dpo"]["rows"])


# DPO, IPO and SimPO.


def pairs_of(rows: list, policy: Policy | None = None, swapped: bool = False, temperature: float = 1.0) -> Any:
    """A batch as `dpo` makes it, with the log-probabilities of the reference."""
    better, worse = (REJECTED, CHOSEN) if swapped else (CHOSEN, REJECTED)
    pairs = [Pair(((row[0], row[better]), (row[0], row[worse])), 1.0) for row in rows]
    reference = policy or policy_of("reference")
    nats = nats_of(reference, [text for pair in pairs for text in pair.texts], PAD, CPU, temperature)
    return collate_pairs(with_reference(pairs, nats), PAD)


@pytest.mark.parametrize("microbatch_size", [0, 4])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dpo", {}),
        ("dpo, reference first", {"beta": 0.4}),
        ("dpo, aot of one pair", {"label_smoothing": 0.2}),
        ("simpo", {"loss": "simpo", "simpo_beta": 2.0, "simpo_margin": 1.0}),
    ],
)
def test_dpo_and_simpo(name, settings, microbatch_size):
    case, policy, config = CASES[name], policy_of("policy"), DPOConfig(temperature=1.0, **settings)
    batch = pairs_of(case["rows"])
    for step in steps_of(case, policy.lm):
        figures = mean_of(
            batch, lambda part: pair_loss(policy, part, config), len(batch.weight), microbatch_size=microbatch_size
        )
        same(figures["loss"], step["loss"])
        if config.loss == "sigmoid":
            same(config.beta * figures["margin"], step["rewards/margins"])
            same(config.beta * figures["log_ratio_better"], step["rewards/chosen"])
            same(config.beta * figures["log_ratio_worse"], step["rewards/rejected"])
            same(figures["accuracy"], step["rewards/accuracies"])


def first_loss(name: str, batch: Any, **settings: Any) -> float:
    config = DPOConfig(temperature=1.0, **settings)
    (total, count), _ = pair_loss(policy_of("policy"), batch, config)
    return (total / count).item()


def test_dpo_the_wrong_way_round_or_without_its_reference_is_another_loss():
    rows, theirs = CASES["dpo"]["rows"], CASES["dpo"]["steps"][0]["loss"]
    batch = pairs_of(rows)
    same(first_loss("dpo", batch), theirs)
    same(first_loss("dpo", replace(pairs_of(rows, swapped=True), weight=torch.zeros(len(rows)))), theirs)
    for wrong in (
        pairs_of(rows, swapped=True),
        replace(batch, reference=torch.zeros_like(batch.reference)),
        replace(batch, reference=batch.reference.flip(1)),
        pairs_of(rows, policy_of("policy")),
    ):
        assert abs(first_loss("dpo", wrong) - theirs) > 0.02
    rows, theirs = CASES["simpo"]["rows"], CASES["simpo"]["steps"][0]["loss"]
    settings = {"loss": "simpo", "simpo_beta": 2.0, "simpo_margin": 1.0}
    assert abs(first_loss("simpo", pairs_of(rows, swapped=True), **settings) - theirs) > 0.02


def test_the_sigmoid_loss_of_trl_has_no_label_smoothing_and_ours_has():
    """In TRL, label_smoothing = 0.2 changes `aot`, `robust` and `exo_pair`, and not `sigmoid`."""
    without, with_smoothing = CASES["dpo"], CASES["dpo, sigmoid with smoothing"]
    assert with_smoothing["settings"] == {"label_smoothing": 0.2}
    assert with_smoothing["steps"] == without["steps"]
    margins = torch.tensor([0.7, -0.3])
    assert abs(dpo_loss(margins, torch.ones(2), 0.1, 0.2)[0] - dpo_loss(margins, torch.ones(2), 0.1)[0]) > 1e-3


def test_ipo_of_trl_compares_means_over_the_tokens():
    """Given means, our loss and its gradient are TRL's. Of sums, as in the paper, they are another."""
    case, policy = CASES["dpo, ipo"], policy_of("policy")
    batch = pairs_of(case["rows"])
    mask = batch.loss_mask.flatten(0, 1)
    lengths = mask.sum(1).view(-1, 2)
    for step in steps_of(case, policy.lm):
        nats = response_nats(policy, batch.ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), mask, 1.0)
        ratios = nats.view(-1, 2) - batch.reference
        means = ratios / lengths
        total, count = ipo_loss(means[:, 0] - means[:, 1], batch.weight, 0.4)
        sums = ipo_loss(ratios[:, 0] - ratios[:, 1], batch.weight, 0.4)[0]
        assert abs(sums / count - step["loss"]) > 0.1
        (total / count).backward()
        same(total / count, step["loss"])


def test_ipo_of_responses_of_one_length_differs_by_beta_alone():
    """Of n tokens each: (m / n - 1 / (2 beta))^2 is (m - 1 / (2 beta / n))^2 / n^2."""
    case, policy = CASES["dpo, ipo of equal lengths"], policy_of("policy")
    n = len(case["rows"][0][CHOSEN])
    assert {len(response) for row in case["rows"] for response in row[1:]} == {n}
    batch, config = pairs_of(case["rows"]), DPOConfig(loss="ipo", beta=0.4 / n, temperature=1.0)

    def loss(part):
        (total, count), figures = pair_loss(policy, part, config)
        return (total / n**2, count), figures

    for step in steps_of(case, policy.lm):
        same(mean_of(batch, loss)["loss"], step["loss"])


# KTO.


@pytest.mark.parametrize(
    ("name", "settings"),
    [("kto", {"beta": 0.4, "good_weight": 1.5, "bad_weight": 0.8}), ("kto, other models", {})],
)
def test_kto(name, settings):
    """TRL compares a prompt with the response of the row before it, we with that of the row after it."""
    case, config = CASES[name], KTOConfig(temperature=1.0, **settings)
    rows = case["rows"][::-1]
    other = "policy" if case["reference"] == "reference" else "reference"
    policy, reference = policy_of(other), language_model(case["reference"])
    texts, marks = [(prompt, response) for prompt, response, _ in rows], torch.tensor([float(row[2]) for row in rows])
    before = nats_of(Policy(reference, PlainEngine(), value_head=False), texts, PAD, CPU, 1.0)
    for step in steps_of(case, policy.lm):
        kl = kl_of_mismatched(policy, reference, texts, PAD, CPU, 1.0)
        same(kl, step["kl"])
        batch = MarkedBatch(collate(texts, PAD), torch.tensor(before), marks, torch.full((len(rows),), kl))
        figures = mean_of(batch, lambda part: marked_loss(policy, part, config))
        same(figures["loss"], step["loss"])
        swapped, _ = marked_loss(policy, replace(batch, mark=1 - marks), config)
        assert abs(swapped[0].item() / len(rows) - step["loss"]) > 1e-3


def test_the_kl_of_kto_depends_on_who_is_next_and_never_falls_below_0():
    case, clamped = CASES["kto"], CASES["kto, other models"]
    kl = case["steps"][0]["kl"]
    texts = [(prompt, response) for prompt, response, _ in case["rows"]]
    policy, reference = policy_of("policy"), language_model("reference")
    assert abs(kl_of_mismatched(policy, reference, texts, PAD, CPU, 1.0) - kl) > 0.01 * kl
    assert [step["kl"] for step in clamped["steps"]] == [0.0, 0.0]


# SFT and the reward model.


@pytest.mark.parametrize("name", ["sft", "sft, in parts"])
def test_sft(name):
    """A mean over all tokens of the batch, in microbatches too."""
    case, policy = CASES[name], policy_of("policy")
    texts = [(ids[: labels.count(-100)], ids[labels.count(-100) :]) for ids, labels in case["rows"]]
    assert all(
        [-100] * len(prompt) + response == row[1] for (prompt, response), row in zip(texts, case["rows"], strict=True)
    )
    batch = collate(texts, PAD)
    for microbatch_size, step in zip((0, 4), steps_of(case, policy.lm), strict=True):
        figures = mean_of(batch, lambda part: (sft_loss(policy, part), {}), number_of_targets(batch), microbatch_size)
        same(figures["loss"], step["loss"])


@pytest.mark.parametrize("name", ["reward model", "reward model, margins"])
def test_the_reward_model(name):
    case = CASES[name]
    model = RewardModel(build(LlamaForSequenceClassification, SEEDS["policy"]).eval(), PlainEngine())
    flat = collate([([], ids) for row in case["rows"] for ids in row[:2]], PAD)
    n = len(case["rows"])
    margins = torch.tensor([row[2] if len(row) > 2 else 0.0 for row in case["rows"]])
    ids, attention_mask = flat.ids.view(n, 2, -1), flat.attention_mask.view(n, 2, -1)
    batch = JudgedBatch(ids, attention_mask, torch.ones(n), margins)
    for step in steps_of(case, model.classifier):
        figures = mean_of(batch, lambda part: preference_loss(model, part))
        same(figures["loss"], step["loss"])
        same(figures["accuracy"], step["accuracy"])
