"""Before the first step, policy, sampling policy and reference are one: ratio 1, nothing clipped, no KL."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_lm

from plaudit import rng
from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.ppo import compute_advantages, number_of_tokens, ppo, ppo_loss, rollout_values
from plaudit.models.loading import load_causal_lm
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.training.optimizer import adamw, update
from plaudit.training.prompts import prompts_of, tokenised_prompts
from plaudit.training.rollouts import ScoreScale, generate, score_rollout
from plaudit.training.run import Run

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22]] * 4  # of different lengths: padded on the left


def with_engine(run, engine):
    return dataclasses.replace(run, config=dataclasses.replace(run.config, engine=engine))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_minibatch_of_an_update(tiny_tokenizer, temperature):
    policy, reference = Policy(make_lm(), PlainEngine()).eval(), make_lm().eval()
    noise = rng.uniforms(range(12), 10, 0, "test", 0, "noise")
    responses = generate(policy, PROMPTS, noise, tiny_tokenizer, temperature)
    raw = torch.arange(12).float()
    rollout, states = score_rollout(policy, reference, responses, raw, ScoreScale(5.0, 3.0, -1.0), temperature)
    assert rollout.kl.abs().max() < 1e-6
    assert (rollout.logprobs - rollout.ref_logprobs).abs().max() < 1e-6
    batch = compute_advantages(rollout, rollout_values(policy, states, rollout), 0.2, 1.0, 0.95)
    settings = PPOConfig(batch_size=12, minibatch_size=12, temperature=temperature)
    stats = update(
        policy,
        adamw(policy, 1e-3),
        batch,
        loss=lambda minibatch: ppo_loss(policy, minibatch, settings),
        count=number_of_tokens,
        settings=settings,
        orders=[np.arange(12)],
        where="test",
    )
    assert stats["optimizer_steps"] == 1
    assert stats["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert stats["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert stats["clip_fraction"] == 0
    assert stats["approx_kl"] == pytest.approx(0, abs=1e-6)
    # At ratio 1 the policy loss is minus the mean of whitened advantages, and values start at 0.
    assert stats["policy_loss"] == pytest.approx(0, abs=1e-5)
    returns = batch.returns[responses.response_mask]
    assert stats["value_loss"] == pytest.approx(0.5 * (returns**2).mean().item(), rel=1e-4)


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_the_first_iteration_of_ppo(bare_run, engine):
    """With the models that PPO opens itself, whose configurations ask for dropout."""
    run = with_engine(bare_run(epochs=1, minibatch_size=16, temperature=0.7, iterations=1), engine)
    (report,) = ppo(run)
    metrics = report.metrics
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["kl_k1"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("train_layers", "engine"), [(0, "fast"), (1, "fast"), (1, "plain")])
def test_later_the_policy_has_moved_and_the_reference_has_not(bare_run, tiny_tokenizer, train_layers, engine):
    """The KL of iteration 3, measured again with the policy of the checkpoint and the SFT model of the folder."""
    settings = {"temperature": 1.0, "iterations": 3, "lr": 1e-2, "kl_stop": 10.0, "save_every": 2}
    run = with_engine(bare_run(train_layers=train_layers, **settings), engine)
    reports = list(itertools.islice(ppo(run), 2))
    weights = load_file(run.folder("ppo") / "checkpoints" / "step-00000002" / "tensors.safetensors")
    policy, sft = Policy(make_lm(), PlainEngine()).eval(), load_causal_lm(run.model("sft")).eval()
    policy.lm.load_state_dict({n.removeprefix("model/lm."): w for n, w in weights.items() if "model/lm." in n}, False)
    settings = run.config.ppo
    prompts = prompts_of(2, tokenised_prompts(run, tiny_tokenizer), settings.batch_size, run.config.seed)
    noise = rng.uniforms(range(settings.batch_size), settings.max_new_tokens, run.config.seed, "ppo", 2, "responses")
    responses = generate(policy, prompts, noise, tiny_tokenizer, 1.0)
    rollout, _ = score_rollout(policy, sft, responses, torch.zeros(len(prompts)), ScoreScale(0.0, 1.0, -1.0), 1.0)

    resumed = Run.open(run.path, run.config, resume=True, overwrite=False, stages=("ppo",))
    straight = with_engine(bare_run("straight", **dataclasses.asdict(settings)), engine)
    for third in (*ppo(resumed), list(ppo(straight))[2]):
        assert third.metrics["kl"] == pytest.approx(rollout.kl.sum(1).mean().item(), rel=1e-4)
    assert [r.metrics["kl"] > 0.01 for r in (*reports, third)] == [False, True, True]
