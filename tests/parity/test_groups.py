"""Our losses and gradients beside those of TRL's GRPO and RLOO trainers, on the responses that these sampled.

README.md says how the fixture was made, and what differs and why. Both sides train the models of `small.py` for two
steps of plain gradient descent on one rollout.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from plaudit.algorithms import grpo as grpo_module
from plaudit.algorithms import rloo as rloo_module
from plaudit.algorithms.grpo import Config as GRPOConfig
from plaudit.algorithms.rloo import Config as RLOOConfig
from plaudit.batches import select_rows
from plaudit.maths.advantages import group_advantages, leave_one_out
from plaudit.maths.losses import policy_loss
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import join_prompts
from plaudit.training.rollouts import ScoreScale, penalised_loss, score_rollout
from tests.parity.small import EOS, PAD, SEEDS, build
from tests.parity.steps import CASES, language_model, mean_of, policy_of, same, steps_of

EPS = 1e-4  # TRL adds it to the standard deviation of a group


def test_the_cases_hold_what_they_are_for():
    for name in ("grpo", "rloo"):
        first, second = (step["clip_ratio/region_mean"] for step in CASES[name]["steps"])
        assert first == 0 < second  # in the second step the ratio is past the clip
        lengths = [len(row) for row in CASES[name]["rollout"]["responses"]]
        assert len({*lengths}) > 2
    assert CASES["grpo"]["steps"][0]["frac_reward_zero_std"] == 0.25  # a group with equal rewards


# GRPO.


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
