"""The models needed to train or evaluate a policy; weights that they share exist in memory only once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from plaudit.files import writes
from plaudit.models.ensemble import member_folders
from plaudit.models.layers import share_weights
from plaudit.models.loading import load_causal_lm, load_reward_model, save
from plaudit.models.lora import FOLDER, load_adapters
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import Tokenizer
from plaudit.training import dist
from plaudit.training.engine import Engine, choose_engine, prepare_to_learn
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

VALUE_HEAD = "value_head.safetensors"  # in the same folder as the model files of a policy


@dataclass(frozen=True)
class Models:
    """Policy, reference and reward models, the tokenizer of all of them, and the engine that runs them."""

    tokenizer: Tokenizer
    policy: Policy  # to train, with a value head if requested
    reference: Any  # the SFT model, frozen; it shares the policy's frozen weights, unless sharded
    reward_models: tuple[RewardModel, ...]  # frozen; several members of an ensemble, or none in a run without one
    engine: Engine

    @property
    def reward_model(self) -> RewardModel | None:
        """The reward model, or the first member of an ensemble."""
        return self.reward_models[0] if self.reward_models else None

    @staticmethod
    def load(
        run: Run, algorithm: str, *, stage: str = "sft", value_head: bool = False, reward_model: bool = True
    ) -> Models:
        """Load the models of a run directory.

        Args:
            algorithm: the algorithm whose `train_layers` and LoRA settings apply.
            stage: the folder of the policy: "sft" to train it, `algorithm` to evaluate it after training.
        """
        sft, reward_folder = run.model("sft"), run.model("reward_model") if reward_model else None
        tokenizer = open_tokenizer(run, sft)
        return Models.of(run, algorithm, run.model(stage), sft, reward_folder, tokenizer, value_head=value_head)

    @staticmethod
    def of(
        run: Run,
        algorithm: str,
        policy_folder: str,
        reference_folder: str,
        reward_folder: str | None,
        tokenizer: Tokenizer,
        *,
        value_head: bool,
    ) -> Models:
        """Load the models in three folders, without dropout.

        To train a policy, a reward model with LoRA adapters uses the weights of the reference, so that they exist only
        once. To evaluate a policy, the merged weights in its folder are used, without adapters and without peft.
        """
        lm = load_causal_lm(policy_folder).to(run.device).eval()
        learns = policy_folder == reference_folder
        # Prepared before the next model is opened, so that they are not all in memory in float32.
        if learns:
            engine = prepare_to_learn(run, algorithm, lm)
        else:
            engine = choose_engine(run, algorithm, lm.requires_grad_(False))
            engine.prepare(lm)
            dist.wrap(lm, run.config.sharding)
        reference = load_causal_lm(reference_folder).to(run.device).eval().requires_grad_(False)
        engine.prepare(reference)
        share_weights(lm, reference)
        dist.wrap(reference, run.config.sharding)
        reward_models = []
        for folder in member_folders(Path(reward_folder)) if reward_folder is not None else ():
            adapter = folder / FOLDER
            on_reference = learns and adapter.exists()
            classifier = load_reward_model(reference_folder if on_reference else str(folder), tokenizer.pad_id)
            if on_reference:
                load_adapters(classifier, adapter)
            reward_models.append(RewardModel(classifier.requires_grad_(False), engine).to(run.device).eval())
            engine.prepare(classifier)
            for other in (reference, *(member.classifier for member in reward_models[:-1])):
                share_weights(other, classifier)  # before the next one is opened
            dist.wrap(classifier, run.config.sharding)
        policy = Policy(lm, engine, value_head=value_head).to(run.device)
        if policy.value_head is not None and (saved := Path(policy_folder) / VALUE_HEAD).exists():
            policy.value_head.load_state_dict(load_file(saved))
        models = Models(tokenizer, policy.eval(), reference, tuple(reward_models), engine)
        models.share(lm)
        return models

    def save_policy(self, run: Run, stage: str, optimizer: Any) -> None:
        """Save the policy that was trained as a plain model folder, with its value head beside it."""
        policy, folder = self.policy, run.folder(stage)
        policy.engine.restore(policy.lm, optimizer, lambda: load_causal_lm(run.model("sft")))
        save(policy.lm, self.tokenizer, folder, getattr(run.config, stage))
        if policy.value_head is not None and writes():
            save_file(policy.value_head.state_dict(), folder / VALUE_HEAD)

    def share(self, lm: Any) -> None:
        """Share equal weights of `lm`, reference and reward models, and prepare the engine for them."""
        others = [self.reference, *(member.classifier for member in self.reward_models)]
        self.engine.prepare(lm)  # weights must have one number format to be equal
        for place, other in enumerate(others):
            for owner in (lm, *others[:place]):
                share_weights(owner, other)
        self.engine.prepare(lm, *others)
