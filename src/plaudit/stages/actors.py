"""The models that PPO and its measurement need, on one trunk in memory where they have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plaudit.models.heads import Policy
from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from plaudit.models.tokenizer import Tokenizer
from plaudit.models.trunk import freeze, freeze_below, halve_frozen, share_below
from plaudit.training.run import Run


@dataclass(frozen=True)
class Actors:
    """Policy, reference and reward model, and the tokenizer that serves all three.

    Attributes:
        policy: only its top blocks learn, where `ppo.train_layers` says so.
        reference: the SFT model, frozen; its lower blocks are the policy's.
        reward_model: frozen.
        depth: the policy's frozen blocks.
        reward_shares: whether these are the reward model's too.
    """

    tokenizer: Tokenizer
    policy: Policy
    reference: Any
    reward_model: Any
    depth: int
    reward_shares: bool

    @staticmethod
    def load(run: Run, stage: str = "sft") -> Actors:
        """From a run directory; the policy begins as the model of `stage`.

        Raises:
            RunError: a model is not there yet.
        """
        tokenizer = load_tokenizer(run.model("sft"))
        return Actors.of(run.model(stage), run.model("sft"), run.model("reward"), tokenizer, run)

    @staticmethod
    def of(policy_from: str, reference_from: str, reward_from: str, tokenizer: Tokenizer, run: Run) -> Actors:
        """From three folders. There is no dropout anywhere."""
        policy = Policy(load_causal_lm(policy_from)).to(run.device).eval()
        depth = freeze_below(policy.lm, run.config.ppo.train_layers)
        reference = load_causal_lm(reference_from).to(run.device).eval()
        reward_model = load_reward_model(reward_from, tokenizer.pad_id).to(run.device).eval()
        if not share_below(policy.lm, reference, depth):
            depth = 0
        shared = share_below(policy.lm, reward_model, depth)
        freeze(reference, reward_model, dtype=run.dtype)
        halve_frozen(policy.lm, run.dtype)
        return Actors(tokenizer, policy, reference, reward_model, depth, shared)
