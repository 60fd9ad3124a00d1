"""Before any step the policy is the policy that sampled, and the reference: ratio 1, nothing clipped, no KL."""

import dataclasses
import itertools

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_lm

from plaudit import rng
from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.ppo import learn, ppo, prompts_of
from plaudit.algorithms.rollout import ScoreScale, collect, estimate, respond
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts
from plaudit.models.heads import Policy
from plaudit.models.loading import load_causal_lm
from plaudit.training import optimizer as optim
from plaudit.training.run import Run

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22]] * 4  # ragged: padded on the left


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_minibatch_of_an_update(cpu_run, tiny_tokenizer, temperature):
    policy, reference = Policy(make_lm()).eval(), make_lm().eval()
    noise = rng.uniforms(range(12), 10, 0, "test", 0, "noise")
    responses = respond(policy.lm, PROMPTS, noise, tiny_tokenizer, temperature, cpu_run)
    logits = torch.arange(12).float()
    rollout, kl, _ = collect(policy, reference, logits, responses, ScoreScale(5.0, 3.0, -1.0), temperature, cpu_run)
    assert kl.abs().max() < 1e-6
    assert (rollout.logprobs - rollout.ref_logprobs).abs().max() < 1e-6
    experience = estimate(rollout, 0.2, 1.0, 0.95)
    settings = PPOConfig(batch_size=12, minibatch_size=12, epochs=1, temperature=temperature)
    stats = learn(policy, optim.adamw(policy, 1e-3), experience, settings, 0, 0, cpu_run)
    assert stats["optimizer_steps"] == 1
    assert stats["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert stats["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert stats["clip_fraction"] == 0
    assert stats["approx_kl"] == pytest.approx(0, abs=1e-6)
    # At ratio 1 the surrogate is minus the mean of whitened advantages, and values start at 0.
    assert stats["policy_loss"] == pytest.approx(0, abs=1e-5)
    returns = experience.returns[rollout.response_mask]
    assert stats["value_loss"] == pytest.approx(0.5 * (returns**2).mean().item(), rel=1e-4)


def test_the_first_iteration_of_the_stage(bare_run):
    """By the stage's own loading of its models, whose configurations ask for dropout."""
    run = bare_run(epochs=1, minibatch_size=16, temperature=0.7, iterations=1)
    (report,) = ppo(run.config, run)
    metrics = report.metrics
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["kl_k1"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("train_layers", [0, 1])
def test_later_the_policy_has_left_and_the_reference_has_not_moved(bare_run, tiny_tokenizer, train_layers):
    """The KL of iteration 3, measured anew with the checkpointed policy against SFT as its files hold it."""
    run = bare_run(temperature=1.0, iterations=3, lr=1e-2, kl_stop=10.0, save_every=2, train_layers=train_layers)
    config, settings = run.config, run.config.ppo
    reports = list(itertools.islice(ppo(config, run), 2))
    weights = load_file(run.folder("ppo") / "checkpoints" / "step-00000002" / "tensors.safetensors")
    policy, sft = Policy(make_lm()).eval(), load_causal_lm(run.model("sft")).eval()
    policy.lm.load_state_dict({n.removeprefix("model/lm."): w for n, w in weights.items() if "model/lm." in n}, False)
    texts = cut_prompts(load(config.data).prompts, config.prompt_min, config.prompt_max, config.seed)
    prompts = prompts_of(2, [tiny_tokenizer.prompt(t) for t in texts], settings.batch_size, config.seed)
    noise = rng.uniforms(range(settings.batch_size), settings.max_new_tokens, config.seed, "ppo", 2, "responses")
    responses = respond(policy.lm, prompts, noise, tiny_tokenizer, 1.0, run)
    _, kl, _ = collect(policy, sft, torch.zeros(len(prompts)), responses, ScoreScale(0.0, 1.0, -1.0), 1.0, run)

    resumed = Run.open(run.path, config, resume=True, overwrite=False, stages=("ppo",))
    straight = bare_run(folder="straight", **dataclasses.asdict(settings))
    for third in (*ppo(config, resumed), list(ppo(config, straight))[2]):
        assert third.metrics["kl"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-4)
    assert [r.metrics["kl"] > 0.01 for r in (*reports, third)] == [False, True, True]
