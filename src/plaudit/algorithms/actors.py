"""The models that PPO and its measurement need, on one trunk in memory where they have one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.models.heads import Policy
from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from plaudit.models.lora import FOLDER, add_adapters, load_adapters, share_weights
from plaudit.models.precision import halve, halve_embedding
from plaudit.models.tokenizer import Tokenizer
from plaudit.models.trunk import freeze_below, share_below
from plaudit.training.run import Run


@dataclass(frozen=True)
class Actors:
    """Policy, reference and reward model, and the tokenizer that serves all three.

    Attributes:
        policy: only its top blocks learn, where `ppo.train_layers` says so, and only their adapters, where
            `ppo.lora_rank` does.
        reference: the SFT model, frozen; what does not learn in the policy is the policy's.
        reward_model: frozen; what it has in common with the others is theirs.
        depth: frozen blocks that policy and reference share.
        reward_depth: how many of these are the reward model's too.
    """

    tokenizer: Tokenizer
    policy: Policy
    reference: Any
    reward_model: Any
    depth: int
    reward_depth: int

    @property
    def depths(self) -> tuple[int, int]:
        """Both, as `respond` takes them."""
        return self.depth, self.reward_depth

    @staticmethod
    def load(run: Run, stage: str = "sft") -> Actors:
        """From a run directory; the policy begins as the model of `stage`.

        Raises:
            RunError: a model is not there yet.
        """
        tokenizer = load_tokenizer(run.model("sft"))
        return Actors.of(run.model(stage), run.model("sft"), run.model("reward_model"), tokenizer, run)

    @staticmethod
    def of(policy_from: str, reference_from: str, reward_from: str, tokenizer: Tokenizer, run: Run) -> Actors:
        """From three folders. There is no dropout anywhere.

        Adapters, also a reward model's, are used where a policy begins; one that has learned is measured as plain
        folders have it, and so without peft.
        """

        def prepare(model: Any) -> None:
            """Before the next is opened, so that they are not all in memory in float32."""
            halve(model, run.dtype, matrices=not run.config.ppo.lora_rank)

        policy = Policy(load_causal_lm(policy_from)).to(run.device).eval()
        depth = freeze_below(policy.lm, run.config.ppo.train_layers, "ppo.train_layers")
        begins = policy_from == reference_from
        if begins:
            add_adapters(policy.lm, run.config.ppo, run.config.seed, "ppo")
        else:
            policy.requires_grad_(False)
        prepare(policy.lm)
        reference = load_causal_lm(reference_from).to(run.device).eval()
        reference.requires_grad_(False)
        prepare(reference)
        depth = share_below(policy.lm, reference, depth)
        share_weights(policy.lm, reference)
        if begins and (adapter := Path(reward_from) / FOLDER).exists():  # taught on the reference's weights
            reward_model = load_reward_model(reference_from, tokenizer.pad_id)
            load_adapters(reward_model, adapter)
        else:
            reward_model = load_reward_model(reward_from, tokenizer.pad_id)
        reward_model = reward_model.to(run.device).eval().requires_grad_(False)
        prepare(reward_model)
        shared = share_below(policy.lm, reward_model, depth)
        for owner in (policy.lm, reference):
            share_weights(owner, reward_model)
        if not run.config.ppo.lora_rank:
            halve_embedding(reward_model, run.dtype, (policy.lm, reference))
        return Actors(tokenizer, policy, reference, reward_model, depth, shared)
