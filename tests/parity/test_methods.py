"""Our losses and gradients beside those of TRL's newest trainers, on equal tokens: README.md says what differs and why.

Both train the models of `small.py` for two steps of plain gradient descent. The second step of a case starts from the
weights that the first left, so it agrees only if every gradient did.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, LlamaForSequenceClassification

from plaudit.algorithms import grpo as grpo_module
from plaudit.algorithms import rloo as rloo_module
from plaudit.algorithms.dpo import Config as DPOConfig
from plaudit.algorithms.dpo import Pair, collate_pairs, pair_loss, with_reference
from plaudit.algorithms.grpo import Config as GRPOConfig
from plaudit.algorithms.kto import Config as KTOConfig
from plaudit.algorithms.kto import kl_of_mismatched, marked_loss
from plaudit.algorithms.reward_model import preference_loss
from plaudit.algorithms.rloo import Config as RLOOConfig
from plaudit.algorithms.sft import number_of_targets, sft_loss
from plaudit.batches import JudgedBatch, MarkedBatch, number_of_rows, select_rows
from plaudit.maths.advantages import group_advantages, leave_one_out
from plaudit.maths.losses import dpo_loss, ipo_loss, policy_loss
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import collate, join_prompts
from plaudit.training.offline import nats_of, response_nats
from plaudit.training.optimizer import accumulate
from plaudit.training.rollouts import ScoreScale, penalised_loss, score_rollout
from tests.parity.small import EOS, PAD, SEEDS, build, gradients

HERE = Path(__file__).parent
FIXTURE = json.loads((HERE / "trl-1.16.json").read_text(encoding="utf-8"))
CASES = FIXTURE["cases"]
CPU = torch.device("cpu")
CHOSEN, REJECTED = 1, 2  # places of a row of pairs, after the prompt


def same(actual: Any, expected: Any):
    """Equal within the rounding of float32, which two steps add up."""
    actual, expected = (torch.as_tensor(x, dtype=torch.float32).detach() for x in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=5e-6)


def language_model(name: str) -> Any:
    return build(LlamaForCausalLM, SEEDS[name]).eval()


def policy_of(name: str) -> Policy:
    return Policy(language_model(name), PlainEngine(), value_head=False)


def steps_of(case: dict, network: Any) -> Iterator[dict]:
    """TRL's steps. Whoever takes them leaves a gradient in `network`, which is compared, and descended."""
    for step in case["steps"]:
        network.zero_grad()
        yield step
        for name, value in gradients(network).items():
            same(value, step[name])
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= FIXTURE["lr"] * parameter.grad


def mean_of(batch: Any, loss: Callable, count: int | None = None, microbatch_size: int = 0) -> dict[str, float]:
    """What training does: leave the gradient of the mean loss; its figures."""
    return accumulate(batch, microbatch_size, loss, count or number_of_rows(batch), "parity")


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
    for name in ("grpo", "rloo"):
        first, second = (step["clip_ratio/region_mean"] for step in CASES[name]["steps"])
        assert first == 0 < second  # in the second step the ratio is past the clip
        lengths = [len(row) for row in CASES[name]["rollout"]["responses"]]
        assert len({*lengths}) > 2
    assert CASES["grpo"]["steps"][0]["frac_reward_zero_std"] == 0.25  # a group with equal rewards


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


# GRPO.

EPS = 1e-4  # TRL adds it to the standard deviation of a group


def rollout_of(case: dict, policy: Policy, reference: Any) -> Any:
    """What our rollout loop makes of TRL's responses and rewards, which are not normalised here."""
    found = case["rollout"]
    pairs = list(zip(found["prompts"], found["responses"], strict=True))
    responses = join_prompts(pairs, [EOS in response for response in found["responses"]], PAD)
    scale = ScoreScale(mean=0.0, std=1.0, missing_eos_penalty=0.0)
    rewards = torch.tensor(found["rewards"])
    return score_rollout(policy, reference, responses, rewards, scale, case["settings"]["temperature"])[0]


def shrinkage(case: dict) -> torch.Tensor:
    """(B, 1) by how much TRL's constant beside the deviation makes an advantage smaller."""
    s = case["settings"]
    if s.get("scale_rewards") == "none":
        return torch.ones(1, 1)
    std = torch.tensor(case["rollout"]["rewards"]).view(-1, s["num_generations"]).std(1)
    return (std / (std + EPS)).repeat_interleave(s["num_generations"])[:, None]


def grpo_settings(case: dict, **settings: Any) -> GRPOConfig:
    s = case["settings"]
    shared = {"temperature": s["temperature"], "max_new_tokens": s["max_completion_length"], "kl_in": "loss"}
    scale_by = "none" if s.get("scale_rewards") == "none" else "std"
    return GRPOConfig(group_size=s["num_generations"], scale_by=scale_by, **shared, **settings)


def run_grpo(name: str, microbatch_size: int = 0, kl_coef: float = 0.0, **settings: Any) -> None:
    """Two steps on one rollout, each compared with TRL's."""
    case, policy, reference = CASES[name], policy_of("policy"), language_model("reference")
    config, objective = grpo_settings(case, **settings), grpo_module.OBJECTIVE
    rollout = rollout_of(case, policy, reference)
    batch = objective.batch(policy, rollout, None, 0.0, config)
    batch = replace(batch, advantages=batch.advantages * shrinkage(case))
    for step in steps_of(case, policy.lm):
        figures = mean_of(
            batch,
            lambda part: penalised_loss(objective, policy, reference, part, kl_coef, config),
            objective.count(batch, config),
            microbatch_size,
        )
        same(figures["loss"], step["loss"])
        same(figures["clip_fraction"] >= step["clip_ratio/region_mean"] - 1e-6, 1)  # theirs: where the clip bites
        if "kl" in step and config.normalise == "token":
            same(figures["kl_loss"], step["kl"])


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("grpo")])
def test_group_advantages(name):
    """Ours have no constant beside the deviation. Equal rewards give 0 in both."""
    case = CASES[name]
    scale = case["settings"].get("scale_rewards") != "none"
    ours = group_advantages(torch.tensor(case["rollout"]["rewards"]), 4, scale=scale)
    theirs = torch.tensor(case["rollout"]["advantages"])
    same(ours * shrinkage(case)[:, 0], theirs)
    assert (ours.view(4, 4).abs().amax(1) == 0).sum() == (theirs.view(4, 4).abs().amax(1) < 1e-6).sum() == 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {}),
        ("grpo, no scaling", {}),
        ("grpo, by sequence", {"normalise": "sequence"}),
        ("grpo, by constant", {"normalise": "constant"}),
    ],
)
@pytest.mark.parametrize("microbatch_size", [0, 5])
def test_grpo(name, settings, microbatch_size):
    """`dapo`, TRL's default, is normalise = token; `grpo` is sequence; `dr_grpo` is constant."""
    run_grpo(name, microbatch_size, **settings)


@pytest.mark.parametrize("normalise", ["sequence", "constant"])
def test_another_normalisation_is_another_loss(normalise):
    with pytest.raises(AssertionError):
        run_grpo("grpo", normalise=normalise)


def test_grpo_in_halves_is_the_whole():
    """TRL's `dapo` and our microbatches divide by all tokens of the batch."""
    run_grpo("grpo, in halves", microbatch_size=8)
    run_grpo("grpo, in halves")


def test_bnpo_of_trl_takes_a_mean_in_each_half():
    """So a token counts more in the half with fewer tokens. We have the mean of each half only as the whole batch."""
    case, policy, reference = CASES["grpo, bnpo in halves"], policy_of("policy"), language_model("reference")
    config, objective = grpo_settings(case), grpo_module.OBJECTIVE
    batch = objective.batch(policy, rollout_of(case, policy, reference), None, 0.0, config)
    batch = replace(batch, advantages=batch.advantages * shrinkage(case))
    halves = iter(case["rollout"]["microbatches"])
    for step in steps_of(case, policy.lm):
        losses = []
        for _ in range(2):
            part = select_rows(batch, torch.tensor(next(halves)))
            (total, count), _ = objective.loss(policy, part, config)
            losses.append(total / count)
        whole = objective.loss(policy, batch, config)[0]
        assert abs(whole[0] / whole[1] - step["loss"]) > 1e-3
        (sum(losses) / 2).backward()
        same(sum(losses) / 2, step["loss"])


@pytest.mark.parametrize(
    ("name", "normalise"),
    [("grpo, kl", "token"), ("grpo, kl by sequence", "sequence"), ("grpo, kl by constant", "constant")],
)
@pytest.mark.parametrize("microbatch_size", [0, 5])
def test_the_penalty_in_the_loss_is_divided_as_the_loss_is(name, normalise, microbatch_size):
    run_grpo(name, microbatch_size, kl_coef=0.3, kl_estimator="k3", normalise=normalise)


def test_another_estimator_of_kl_is_another_loss():
    for estimator in ("k1", "k2", "full"):
        with pytest.raises(AssertionError):
            run_grpo("grpo, kl", kl_coef=0.3, kl_estimator=estimator)


def test_trl_corrects_the_gradient_of_k3_by_the_ratio():
    """By default TRL multiplies k3 by the ratio, so that its gradient is, on average, that of KL at each token.

    Ours is k3 alone, with a warning before training; `full` has that gradient exactly.
    """
    case, policy, reference = CASES["grpo, kl corrected"], policy_of("policy"), language_model("reference")
    config, objective = grpo_settings(case, kl_estimator="k3"), grpo_module.OBJECTIVE
    rollout = rollout_of(case, policy, reference)
    batch = objective.batch(policy, rollout, None, 0.0, config)
    batch = replace(batch, advantages=batch.advantages * shrinkage(case))
    mask = rollout.responses.response_mask
    for step in steps_of(case, policy.lm):
        (total, count), _ = objective.loss(policy, batch, config)
        found = policy.engine.compare(policy.lm, reference, rollout.responses, config.temperature, gradient=True)
        ratio = (found.logprobs - rollout.logprobs[mask]).exp()
        loss = (total + 0.3 * (ratio * found.estimate("k3")).sum()) / count
        loss.backward()
        same(loss, step["loss"])
    first, uncorrected = (CASES[name]["steps"][0] for name in ("grpo, kl corrected", "grpo, kl"))
    same(first["loss"], uncorrected["loss"])
    assert (torch.tensor(first["norms"]) - torch.tensor(uncorrected["norms"])).abs().max() > 1e-3


def test_an_entropy_bonus():
    run_grpo("grpo, entropy", entropy_coef=0.2)


def test_the_entropy_bonus_of_trl_is_a_mean_over_tokens_whatever_the_loss_is():
    """Ours has the same divisors as the loss."""
    case, policy, reference = CASES["grpo, entropy by sequence"], policy_of("policy"), language_model("reference")
    config, objective = grpo_settings(case, normalise="sequence"), grpo_module.OBJECTIVE
    rollout = rollout_of(case, policy, reference)
    batch = objective.batch(policy, rollout, None, 0.0, config)
    batch = replace(batch, advantages=batch.advantages * shrinkage(case))
    for step in steps_of(case, policy.lm):
        (total, count), _ = objective.loss(policy, batch, config)
        found = policy.engine.compare(policy.lm, reference, rollout.responses, config.temperature, gradient=True)
        loss = total / count - 0.2 * found.entropy.mean()
        own, _ = penalised_loss(objective, policy, reference, batch, 0.0, replace(config, entropy_coef=0.2))
        assert abs(own[0] / own[1] - step["loss"]) > 1e-4
        loss.backward()
        same(loss, step["loss"])


def test_trl_counts_padding_as_positions_and_a_gpt2_has_other_log_probabilities_then():
    """Prompts are padded on the left. TRL samples with positions that count tokens, and learns without.

    Where positions are relative, as in the other cases, this changes nothing. Given TRL's positions, our loss has its
    gradient.
    """
    case, policy = CASES["grpo, absolute positions"], Policy(build(GPT2LMHeadModel, 1), PlainEngine(), value_head=False)
    config = grpo_settings(case)
    rollout = rollout_of(case, policy, build(GPT2LMHeadModel, SEEDS["reference"]))
    responses = rollout.responses
    mask, width = responses.response_mask, responses.response_mask.shape[1]
    batch = grpo_module.OBJECTIVE.batch(policy, rollout, None, 0.0, config)
    advantages = batch.advantages * shrinkage(case)
    old = None
    for number, step in enumerate(steps_of(case, policy.lm)):
        if number == 0:
            mean_of(batch, lambda part: grpo_module.OBJECTIVE.loss(policy, part, config), int(mask.sum()))
            ours = policy.lm.get_input_embeddings().weight.grad
            assert (ours - torch.tensor(step["embedding"])).abs().max() > 1e-3
            policy.lm.zero_grad()
        logits = policy.lm(responses.ids, attention_mask=responses.attention_mask.long()).logits
        logits = logits[:, -width - 1 : -1] / config.temperature
        logprobs = logits.log_softmax(-1).gather(2, responses.response_ids[..., None])[..., 0]
        old = logprobs.detach() if old is None else old
        (total, count), _ = policy_loss(logprobs, old, advantages, mask, config.clip_range)
        (total / count).backward()
        same(total / count, step["loss"])
    assert (old - rollout.logprobs)[mask].abs().max() > 0.01


# RLOO.


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("rloo")])
def test_rloo(name):
    """The first step is REINFORCE in both, of the same advantages, with k1 in the reward.

    TRL's loss is that of PPO with one ratio for each response, whose value at a ratio of 1 is minus the advantage. In
    later steps on the same responses it clips that ratio. We take one step.
    """
    case, policy, reference = CASES[name], policy_of("policy"), language_model("reference")
    config = RLOOConfig(group_size=4, temperature=1.3, max_new_tokens=6, kl_coef=case["settings"]["beta"])
    assert (config.kl_in, config.kl_estimator) == ("reward", "k1")
    rollout = rollout_of(case, policy, reference)
    batch = rloo_module.OBJECTIVE.batch(policy, rollout, None, config.kl_coef, config)
    same(batch.advantages, case["rollout"]["advantages"])
    old, mask = rollout.logprobs.sum(1, keepdim=True), rollout.responses.response_mask
    ones = torch.ones(len(old), 1, dtype=torch.bool)
    for number, step in enumerate(steps_of(case, policy.lm)):
        logprobs, _ = policy(rollout.responses.ids, rollout.responses.attention_mask, mask, config.temperature)
        whole = logprobs.sum(1, keepdim=True)
        (total, count), figures = policy_loss(whole, old, batch.advantages[:, None], ones, 0.2)
        same(total / count, step["loss"])
        if number == 0:
            same(total, -batch.advantages.sum())
            mean_of(batch, partial(rloo_module.OBJECTIVE.loss, policy, settings=config), count=int(count))
        else:
            assert 0 < step["clip_ratio/region_mean"] <= figures["clip_fraction"] / count
            (total / count).backward()


def test_a_baseline_with_the_response_itself_is_another_advantage():
    rewards = torch.tensor(CASES["rloo, no kl"]["rollout"]["rewards"])
    theirs = torch.tensor(CASES["rloo, no kl"]["rollout"]["advantages"])
    same(leave_one_out(rewards, 4), theirs)
    same(group_advantages(rewards, 4, scale=False) * 4 / 3, theirs)
    assert (group_advantages(rewards, 4, scale=False) - theirs).abs().max() > 0.1


# SFT and the reward model.


@pytest.mark.parametrize("name", ["sft", "sft, in parts"])
def test_sft(name):
    """A mean over all tokens of the batch, in microbatches too."""
    case, policy = CASES[name], policy_of("policy")
    texts = [(ids[: labels.count(-100)], ids[labels.count(-100) :]) for ids, labels in case["rows"]]
    assert all([-100] * len(prompt) + response == row[1] for (prompt, response), row in zip(texts, case["rows"]))
    batch = collate(texts, PAD)
    for microbatch_size, step in zip((0, 4), steps_of(case, policy.lm), strict=True):
        figures = mean_of(
            batch, lambda part: (sft_loss(policy, part), {}), number_of_targets(batch), microbatch_size
        )
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
