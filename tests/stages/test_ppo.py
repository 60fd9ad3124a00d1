import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import make_lm

from plaudit import rng
from plaudit.config import PPOConfig
from plaudit.errors import ModelError
from plaudit.models.heads import Policy
from plaudit.stages.ppo import check_window, learn, ppo_loss, prompts_of
from plaudit.stages.rollout import ScoreScale, collect, estimate, respond
from plaudit.training import optimizer as optim

SETTINGS = PPOConfig(batch_size=10, minibatch_size=4, epochs=3, kl_stop=1e9)


def _experience(policy, reference, run, tokenizer, reward=None, kl_coef=0.0, rows=10, iteration=0):
    noise = rng.uniforms(range(rows), 8, 0, "test", iteration, "noise")
    responses = respond(policy.lm, [[0, 5, 6]] * rows, noise, tokenizer, 1.0, run)
    responses = dataclasses.replace(responses, ended=torch.ones(rows, dtype=torch.bool))
    logits = (reward or (lambda r: torch.arange(rows).float()))(responses)
    out, kl, _ = collect(policy, reference, logits, responses, ScoreScale(0.0, 1.0, -1.0), 1.0, run)
    return estimate(out, kl_coef, 1.0, 0.95), kl, responses


def test_before_the_first_step_the_ratio_is_one_and_nothing_is_clipped(cpu_run, tiny_tokenizer):
    policy = Policy(make_lm()).eval()
    experience, kl, _ = _experience(policy, policy.lm, cpu_run, tiny_tokenizer)
    _, stats = ppo_loss(policy, experience, SETTINGS, cpu_run)
    assert stats["ratio_mean"].item() == pytest.approx(1, abs=1e-5)
    assert stats["ratio_max"].item() == pytest.approx(1, abs=1e-4)
    assert stats["clip_fraction"].item() == 0
    assert stats["approx_kl"].item() == pytest.approx(0, abs=1e-6)
    assert kl.abs().max().item() < 1e-6


def test_every_row_is_learned_in_every_epoch_the_ragged_last_minibatch_too(cpu_run, tiny_tokenizer):
    policy = Policy(make_lm()).eval()
    experience, _, _ = _experience(policy, policy.lm, cpu_run, tiny_tokenizer)
    stats = learn(policy, optim.adamw(policy, 1e-4), experience, SETTINGS, 0, 0, cpu_run)
    assert stats["optimizer_steps"] == 3 * 3  # 10 rows in minibatches of 4, 4 and 2


def test_epochs_stop_when_approximate_kl_passes_its_bound(cpu_run, tiny_tokenizer):
    policy = Policy(make_lm()).eval()
    experience, _, _ = _experience(policy, policy.lm, cpu_run, tiny_tokenizer)
    settings = dataclasses.replace(SETTINGS, kl_stop=1e-9)
    stats = learn(policy, optim.adamw(policy, 1e-2), experience, settings, 0, 0, cpu_run)
    assert stats["optimizer_steps"] == 3  # one epoch


def _low_tokens(responses):
    """A reward for every token of the lower half of the vocabulary."""
    return ((responses.response_ids < 150) & responses.response_mask).sum(1).float()


def _learn_for_a_while(run, tokenizer, kl_coef):
    """(scores, KLs) of twelve iterations, each a mean over 32 responses."""
    policy, reference = Policy(make_lm()).eval(), make_lm().eval()
    optimizer = optim.adamw(policy, 1e-3)
    settings = dataclasses.replace(SETTINGS, batch_size=32, minibatch_size=16)
    scores, kls = [], []
    for iteration in range(12):
        experience, kl, _ = _experience(policy, reference, run, tokenizer, _low_tokens, kl_coef, 32, iteration)
        learn(policy, optimizer, experience, settings, 0, iteration, run)
        scores.append(experience.rollout.scores.mean().item())
        kls.append(kl.sum(1).mean().item())
    return scores, kls


def test_the_score_rises_and_the_penalty_bounds_the_kl(cpu_run, tiny_tokenizer):
    scores, free = _learn_for_a_while(cpu_run, tiny_tokenizer, kl_coef=0.0)
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 1
    _, held = _learn_for_a_while(cpu_run, tiny_tokenizer, kl_coef=3.0)
    assert held[-1] < 0.4 * free[-1]


def test_prompts_come_in_passes_each_in_its_own_order():
    prompts = list(range(10))
    drawn = [p for i in range(5) for p in prompts_of(i, prompts, 4, seed=1)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == prompts
    assert drawn[:10] != drawn[10:]


def test_a_prompt_that_leaves_no_room_is_refused_with_the_figures():
    check_window([[1] * 10], 54, 64)
    with pytest.raises(ModelError, match="11 tokens and a response of 54 do not fit into the model's window of 64"):
        check_window([[1] * 11], 54, 64)


def test_every_figure_that_the_plan_asks_for_is_logged(finished_run):
    lines = [json.loads(line) for line in (finished_run / "policy" / "metrics.jsonl").read_text().splitlines()]
    wanted = {"step", "score", "score_normalised", "reward", "kl", "kl_k1", "entropy", "ratio_mean", "ratio_max",
              "clip_fraction", "approx_kl", "explained_variance", "policy_loss", "value_loss", "grad_norm",
              "response_length", "eos_rate", "lr", "kl_coef", "optimizer_steps"}  # fmt: skip
    assert all(wanted <= line.keys() for line in lines)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5)  # the policy starts as the reference
    timing = json.loads((finished_run / "policy" / "timing.jsonl").read_text().splitlines()[0])
    assert timing["tokens_per_second"] > 0
