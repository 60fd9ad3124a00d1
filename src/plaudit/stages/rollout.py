"""A rollout: responses sampled from the policy, and everything known of them before learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plaudit.batches import Experience, Responses, Rollout
from plaudit.models.generation import generate
from plaudit.models.heads import Policy, response_logits, score_texts
from plaudit.models.tokenizer import Tokenizer, pad_left
from plaudit.objectives.advantages import gae, token_rewards
from plaudit.objectives.kl import kl_full
from plaudit.objectives.logprobs import entropy, token_logprobs
from plaudit.objectives.masked import spread, whiten
from plaudit.training.run import Run

ROWS_AT_ONCE = 64  # bounds the logits in memory: rows x response tokens x vocabulary


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
    lm: Any, prompts: list[list[int]], noise: Tensor, tokenizer: Tokenizer, temperature: float, run: Run
) -> Responses:
    """Sample one response to each prompt; `noise` (B, R) decides every draw."""
    ids, mask = pad_left(prompts, tokenizer.pad_id)
    with run.autocast():
        return generate(
            lm,
            ids.to(run.device),
            mask.to(run.device),
            noise.to(run.device),
            tokenizer.eos_id,
            tokenizer.pad_id,
            temperature,
        )


@torch.no_grad()
def score_responses(reward_model: Any, responses: Responses, run: Run) -> Tensor:
    """(B,) reward-model logits of prompt and response."""
    with run.autocast():
        return score_texts(reward_model, responses.ids, responses.attention_mask)


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
    parts = []
    for start in range(0, len(responses.ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        batch = (responses.ids[rows], responses.attention_mask[rows], responses.response_mask[rows])
        tokens = responses.response_ids[rows][responses.response_mask[rows]]
        with run.autocast():
            policy_logits, values = policy(*batch, temperature)
            ref_logits = response_logits(reference, *batch, temperature)
        parts.append(
            (
                token_logprobs(policy_logits, tokens),
                token_logprobs(ref_logits, tokens),
                values,
                kl_full(policy_logits, ref_logits),
                entropy(policy_logits),
            )
        )
    known = (spread(torch.cat(part), responses.response_mask) for part in zip(*parts, strict=True))
    logprobs, ref_logprobs, values, kl, ent = known
    rollout = Rollout(
        ids=responses.ids,
        attention_mask=responses.attention_mask,
        response_mask=responses.response_mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        scores=scale.scores(logits, responses.ended),
    )
    return rollout, kl, ent


def estimate(rollout: Rollout, kl_coef: float, gamma: float, lam: float) -> Experience:
    """Rewards, advantages and returns. Returns come from raw advantages; only then are those whitened."""
    mask = rollout.response_mask
    rewards = token_rewards(rollout.scores, rollout.logprobs, rollout.ref_logprobs, mask, kl_coef)
    advantages, returns = gae(rewards, rollout.values, mask, gamma, lam)
    return Experience(rollout, rewards, whiten(advantages, mask), returns)
