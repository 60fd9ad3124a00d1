"""Proximal policy optimisation with a KL penalty against the SFT model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from plaudit import rng
from plaudit.algorithms.actors import Actors
from plaudit.algorithms.rollout import ScoreScale, collect, estimate, respond, score_responses
from plaudit.batches import Experience, Responses
from plaudit.config import LORA_ALPHA, LORA_RANK, MICROBATCH_SIZE, setting
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts
from plaudit.data.text import distinct
from plaudit.errors import DataError, ModelError
from plaudit.maths.kl import adapt_kl_coef
from plaudit.maths.losses import policy_loss, value_loss
from plaudit.maths.masked import explained_variance, masked_mean, unflatten
from plaudit.models.heads import Policy, fit_value_head, logprobs_of, response_states
from plaudit.models.loading import load_causal_lm, save, window
from plaudit.models.precision import make_whole
from plaudit.training import optimizer as optim
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run

_ADAM_EPS = 1e-5
REFERENCE_SAMPLES = 256


@dataclass(frozen=True)
class Config:
    """Proximal policy optimisation: raise the score, with a KL penalty against the SFT model."""

    iterations: int = setting(
        36, "rounds of sampling responses and updating the policy; more train longer", unit="iterations", low=1
    )
    batch_size: int = setting(
        128, "responses sampled in one iteration; raise it if the score is noisy", unit="responses", low=2
    )
    minibatch_size: int = setting(32, "responses in one optimizer step", unit="responses", low=1)
    microbatch_size: int = setting(0, MICROBATCH_SIZE, unit="responses", low=0)
    epochs: int = setting(2, "passes over the responses of one iteration", low=1)
    max_new_tokens: int = setting(
        48, "longest response, end token included; raise it if many are cut off", unit="tokens", low=1
    )
    temperature: float = setting(
        0.78,
        "divides the logits, in sampling and in log-probabilities; lower it for more likely, less varied responses",
        low=0.05,
        high=10,
    )
    train_layers: int = setting(
        2,
        "train only this many layers of the policy, counted from the output; the others keep the SFT model's weights: "
        "faster, with less memory; 0: train all",
        unit="layers",
        low=0,
    )
    lora_rank: int = setting(0, LORA_RANK, low=0)
    lora_alpha: int = setting(16, LORA_ALPHA, low=1)
    lr: float = setting(
        3e-4, "peak learning rate of Adam, from which it falls linearly to 0; lower it if KL jumps", low=0, high=1
    )
    warmup: float = setting(
        0.1, "fraction of the iterations in which the learning rate rises linearly to its peak", low=0, high=1
    )
    kl_coef: float = setting(
        0.15,
        "penalty for each nat of KL from the SFT model (beta); raise it to stay closer to the SFT model",
        unit="score/nat",
        low=0,
    )
    kl_control: str = setting(
        "fixed",
        "fixed keeps kl_coef; adaptive changes it so that KL approaches kl_target",
        choices=("fixed", "adaptive"),
    )
    kl_target: float = setting(6.0, "KL that kl_control = adaptive aims at", unit="nats/response", low=1e-6)
    kl_horizon: int = setting(
        10_000, "time constant of kl_control = adaptive; raise it for slower changes", unit="responses", low=1
    )
    gamma: float = setting(1.0, "discount of later rewards; 1 is none", low=0, high=1)
    lam: float = setting(0.95, "lambda of GAE: 0 has the least variance, 1 the least bias", low=0, high=1)
    clip_range: float = setting(
        0.2, "change of the ratio beyond which a token's gradient is cut; lower it for smaller updates", low=0, high=1
    )
    value_clip: float = setting(
        0.2, "change of a value from the rollout's beyond which its gradient is cut; raise it if values lag", low=0
    )
    value_coef: float = setting(0.1, "weight of the value loss in the total loss", low=0)
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it", low=1e-6)
    kl_stop: float = setting(
        0.1,
        "end an iteration's update early when approximate KL exceeds this; lower it for smaller updates",
        unit="nats/token",
        low=0,
    )
    missing_eos_score: float = setting(
        -1.0,
        "normalised score of a response cut off at max_new_tokens; lower it if too few responses end",
        unit="standard deviations",
    )
    save_every: int = setting(10, "iterations between checkpoints", unit="iterations", low=1)


def ppo(config: Any, run: Run) -> Iterator[StepReport]:
    """Optimise the policy against the reward model, one report an iteration; leaves RUN/ppo.

    Raises:
        ModelError: a prompt and its response do not fit into the model's window.
        TrainingError: a loss or gradient is not finite.
    """
    settings = config.ppo
    actors = Actors.load(run)
    tokenizer, policy = actors.tokenizer, actors.policy
    texts = cut_prompts(load(config.data).prompts, config.prompt_min, config.prompt_max, config.seed)
    if not texts:
        raise DataError(f"no text is long enough for a prompt of {config.prompt_min} words; lower prompt_min")
    prompts = [tokenizer.prompt(text) for text in texts]
    check_window(prompts, settings.max_new_tokens, window(policy.lm))

    def draw(iteration: int, purpose: str, rows: int) -> torch.Tensor:
        return rng.uniforms(range(rows), settings.max_new_tokens, config.seed, "ppo", iteration, purpose)

    optimizer = optim.adamw(policy, settings.lr, eps=_ADAM_EPS)
    checkpoints, log = run.checkpoints("ppo"), run.log("ppo")
    state = checkpoints.restore(policy, optimizer)
    log.cut_back(state["step"])
    if state["step"]:
        scale, kl_coef = ScoreScale(**state["scale"]), state["kl_coef"]
    else:
        some = [prompts[i % len(prompts)] for i in range(REFERENCE_SAMPLES)]
        noise = draw(0, "reference", REFERENCE_SAMPLES)
        answers, logits = answer(actors, some, noise, settings.temperature, run)
        scale, kl_coef = ScoreScale.measured(logits, settings.missing_eos_score), settings.kl_coef
        fit_critic(policy, answers, scale.scores(logits, answers.ended), run)

    for iteration in range(state["step"], settings.iterations):
        began = time.perf_counter()
        batch = prompts_of(iteration, prompts, settings.batch_size, config.seed)
        noise = draw(iteration, "responses", settings.batch_size)
        responses, logits = answer(actors, batch, noise, settings.temperature, run)
        rollout, kl, entropies = collect(policy, actors.reference, logits, responses, scale, settings.temperature, run)
        experience = estimate(rollout, kl_coef, settings.gamma, settings.lam)

        lr = settings.lr * optim.warmup_then_linear(iteration, settings.iterations, settings.warmup)
        optim.set_lr(optimizer, lr)
        update = learn(policy, optimizer, experience, settings, config.seed, iteration, run)

        mask, mean_kl = rollout.response_mask, kl.sum(1).mean().item()
        tokens = [row[:k] for row, k in zip(rollout.response_ids.tolist(), mask.sum(1).tolist(), strict=True)]
        metrics = {
            "score": (2 * torch.sigmoid(logits) - 1).mean().item(),
            "score_normalised": rollout.scores.mean().item(),
            "reward": experience.rewards.sum(1).mean().item(),
            "kl": mean_kl,
            "kl_k1": (rollout.logprobs - rollout.ref_logprobs).sum(1).mean().item(),
            "entropy": masked_mean(entropies, mask).item(),
            **update,
            "explained_variance": explained_variance(rollout.values, experience.returns, mask).item(),
            "response_length": mask.sum(1).float().mean().item(),
            "eos_rate": responses.ended.float().mean().item(),
            "distinct_2": distinct(tokens, 2),
            "perplexity_ref": masked_mean(-rollout.ref_logprobs, mask).exp().item(),
            "lr": lr,
            "kl_coef": kl_coef,
        }
        if settings.kl_control == "adaptive":
            kl_coef = adapt_kl_coef(kl_coef, mean_kl, settings.kl_target, len(batch), settings.kl_horizon)
        seconds = time.perf_counter() - began
        timing = {"seconds": seconds, "tokens_per_second": mask.sum().item() / seconds}
        report = StepReport("ppo", iteration + 1, settings.iterations, metrics, timing)
        log.append(report)
        log.keep(iteration + 1, [tokenizer.continuation(p, t) for p, t in zip(batch, tokens, strict=True)])
        if (iteration + 1) % settings.save_every == 0 or iteration + 1 == settings.iterations:
            kept = {"scale": dataclasses.asdict(scale), "kl_coef": kl_coef}
            checkpoints.save(iteration + 1, policy, optimizer, kept)
        yield report

    make_whole(policy.lm, lambda: load_causal_lm(run.model("sft")))
    save(policy.lm, tokenizer, run.folder("ppo"))
    save_file(policy.value_head.state_dict(), run.folder("ppo") / "value_head.safetensors")
    run.finish("ppo", {"iterations": settings.iterations, "prompts": len(prompts), "scale": dataclasses.asdict(scale)})


def answer(
    actors: Actors, prompts: list[list[int]], noise: torch.Tensor, temperature: float, run: Run
) -> tuple[Responses, torch.Tensor]:
    """The policy's responses to some prompts, and the reward model's logits (B,) of them."""
    responses = respond(actors.policy.lm, prompts, noise, actors.tokenizer, temperature, run, *actors.depths)
    return responses, score_responses(actors.reward_model, responses, run)


@torch.no_grad()
def fit_critic(policy: Policy, responses: Responses, scores: torch.Tensor, run: Run) -> None:
    """Teach the value head what the reference's responses were worth, (B,) scores, before the policy moves."""
    mask = responses.response_mask
    with run.autocast():
        states = response_states(policy.lm, responses.ids, responses.attention_mask, mask, responses.below)
    fit_value_head(policy, states, scores[:, None].expand(mask.shape)[mask])


def learn(
    policy: Policy,
    optimizer: torch.optim.AdamW,
    experience: Experience,
    settings: Config,
    seed: int,
    iteration: int,
    run: Run,
) -> dict[str, float]:
    """One PPO update: epochs of minibatches, cut short before the step at which approximate KL passes its bound.

    Returns:
        means over the optimizer steps (ratio_max: the largest), and the number of steps.
    """
    history: list[dict[str, float]] = []
    for epoch in range(settings.epochs):
        order = rng.permutation(len(experience.rewards), seed, "ppo", iteration * settings.epochs + epoch)
        for part in experience.minibatches(order, settings.minibatch_size):
            loss, stats = ppo_loss(policy, part, settings, run)
            if history and stats["approx_kl"] > settings.kl_stop:
                return _summary(history)
            where = f"ppo iteration {iteration + 1}"
            norm = optim.step(loss, policy, optimizer, settings.max_grad_norm, where)
            history.append({**{k: v.item() for k, v in stats.items()}, "grad_norm": norm})
    return _summary(history)


def _summary(history: list[dict[str, float]]) -> dict[str, float]:
    means = {name: float(np.mean([h[name] for h in history])) for name in history[0]}
    return means | {"ratio_max": max(h["ratio_max"] for h in history), "optimizer_steps": len(history)}


def ppo_loss(
    policy: Policy, part: Experience, settings: Config, run: Run
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clipped policy loss plus weighted value loss of a minibatch, and what to watch of both."""
    rollout, mask = part.rollout, part.rollout.response_mask
    with run.autocast():
        states, values = policy(rollout.ids, rollout.attention_mask, mask, rollout.below)
    logprobs = unflatten(logprobs_of(policy.lm, states, rollout.response_ids[mask], settings.temperature), mask)
    values = unflatten(values, mask)
    loss_pi, stats = policy_loss(logprobs, rollout.logprobs, part.advantages, mask, settings.clip_range)
    loss_v = value_loss(values, rollout.values, part.returns, mask, settings.value_clip)
    stats |= {"policy_loss": loss_pi.detach(), "value_loss": loss_v.detach()}
    return loss_pi + settings.value_coef * loss_v, stats


def prompts_of(iteration: int, prompts: list[Any], batch_size: int, seed: int) -> list[Any]:
    """The iteration's prompts: pass after pass over all of them, each pass in its own order."""
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    orders = {
        epoch: rng.permutation(len(prompts), seed, "ppo prompts", epoch)
        for epoch in {p // len(prompts) for p in places}
    }
    return [prompts[orders[p // len(prompts)][p % len(prompts)]] for p in places]


def check_window(prompts: list[list[int]], max_new_tokens: int, limit: int) -> None:
    """Refuse prompts that leave no room for a whole response.

    Raises:
        ModelError: prompt and response together pass the model's window.
    """
    longest = max((len(p) for p in prompts), default=0)
    if longest + max_new_tokens > limit:
        raise ModelError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} do not fit into the model's window of "
            f"{limit} tokens; shorten the prompts or lower max_new_tokens"
        )
