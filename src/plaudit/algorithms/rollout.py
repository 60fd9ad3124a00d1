"""A rollout: responses sampled from the policy, and everything known of them before learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plaudit.batches import Experience, Responses, Rollout
from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.kl import kl_of_logprobs
from plaudit.maths.logprobs import entropy_of_logprobs
from plaudit.maths.masked import unflatten, whiten
from plaudit.models.generation import generate
from plaudit.models.heads import Policy, in_parts, logits_of, response_states, score_texts, tokens_at_once
from plaudit.models.tokenizer import Tokenizer, pad_left
from plaudit.training.run import Run


@dataclass(frozen=True)
class ScoreScale:
    """What a reward-model logit is worth to PPO.

    Logits are moved and scaled to mean 0 and standard deviation 1 on responses of the reference, so that
    kl_coef and the value head mean the same whatever the reward model's temperature.

    Attributes:
        mean, std: of the logits of reference responses.
        missing_eos: score of a response that the cap cut off.
    """

    mean: float
    std: float
    missing_eos: float

    @staticmethod
    def measured(logits: Tensor, missing_eos: float) -> ScoreScale:
        """The scale at which `logits` (B,) of reference responses have mean 0 and standard deviation 1."""
        return ScoreScale(logits.mean().item(), max(logits.std().item(), 1e-6), missing_eos)

    def scores(self, logits: Tensor, ended: Tensor) -> Tensor:
        """(B,) normalised scores."""
        return ((logits - self.mean) / self.std).masked_fill(~ended, self.missing_eos)


def respond(
    lm: Any,
    prompts: list[list[int]],
    noise: Tensor,
    tokenizer: Tokenizer,
    temperature: float,
    run: Run,
    depth: int = 0,
    shared: int = 0,
) -> Responses:
    """Sample one response to each prompt; `noise` (B, R) decides every draw.

    Args:
        depth, shared: blocks whose output is kept on the way, for the policy and for the reward model.
    """
    ids, mask = pad_left(prompts, tokenizer.pad_id)
    ids, mask, noise = (tensor.to(run.device) for tensor in (ids, mask, noise))
    with run.autocast():
        return generate(lm, ids, mask, noise, tokenizer.eos_id, tokenizer.pad_id, temperature, depth, shared)


@torch.no_grad()
def score_responses(reward_model: Any, responses: Responses, run: Run) -> Tensor:
    """(B,) reward-model logits of prompt and response."""
    with run.autocast():
        return score_texts(reward_model, responses.ids, responses.attention_mask, responses.shared)


@torch.no_grad()
def collect(
    policy: Policy,
    reference: Any,
    logits: Tensor,
    responses: Responses,
    scale: ScoreScale,
    temperature: float,
    run: Run,
) -> tuple[Rollout, Tensor, Tensor]:
    """One pass of policy and reference over the responses, no gradient.

    Args:
        logits: (B,) from the reward model.

    Returns:
        rollout; kl (B, R), the full-vocabulary KL at each visited state in nats; entropy (B, R) in nats.
        The last two are zero outside the response.
    """
    mask = responses.response_mask
    batch = (responses.ids, responses.attention_mask, mask, responses.below)
    with run.autocast():
        states, values = policy(*batch)
        ref_states = response_states(reference, *batch)
    said = compare(policy.lm, states, reference, ref_states, responses.response_ids[mask], temperature)
    logprobs, ref_logprobs, kl, entropies = (unflatten(x, mask) for x in said)
    rollout = Rollout(
        ids=responses.ids,
        attention_mask=responses.attention_mask,
        response_mask=mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=unflatten(values, mask),
        scores=scale.scores(logits, responses.ended),
        below=responses.below,
    )
    return rollout, kl, entropies


@torch.no_grad()
def compare(
    lm: Any, states: Tensor, reference: Any, ref_states: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a model and the reference think of N tokens, from the states (N, D) that predict them.

    Returns:
        logprobs, ref_logprobs, the full-vocabulary KL and the entropy of the model, each (N,) in nats.
    """

    def part(states: Tensor, ref_states: Tensor, tokens: Tensor) -> Tensor:
        logp = torch.log_softmax(logits_of(lm, states, temperature), dim=-1)
        ref_logp = torch.log_softmax(logits_of(reference, ref_states, temperature), dim=-1)
        taken = [x.gather(1, tokens[:, None]).squeeze(1) for x in (logp, ref_logp)]
        return torch.stack([*taken, kl_of_logprobs(logp, ref_logp), entropy_of_logprobs(logp)], dim=1)

    logprobs, ref_logprobs, kl, entropies = in_parts(part, tokens_at_once(lm), states, ref_states, tokens).unbind(1)
    return logprobs, ref_logprobs, kl, entropies


def estimate(rollout: Rollout, kl_coef: float, gamma: float, lam: float) -> Experience:
    """Rewards, advantages and returns. Returns come from raw advantages; only then are those whitened."""
    mask = rollout.response_mask
    rewards = token_rewards(rollout.scores, rollout.logprobs, rollout.ref_logprobs, mask, kl_coef)
    advantages, returns = gae(rewards, rollout.values, mask, gamma, lam)
    return Experience(rollout, rewards, whiten(advantages, mask), returns)
