"""Pairs about which the members of an ensemble of reward models disagree most (query by committee).

A member that has seen the same votes as the others and is sure of the contrary has guessed, and so have they.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plaudit.algorithms.reward_model import PreferenceExample, predict
from plaudit.data.judgements import Judgement
from plaudit.errors import RunError
from plaudit.models.ensemble import member_folders
from plaudit.models.loading import load_reward_model
from plaudit.models.policy import RewardModel
from plaudit.records import Text
from plaudit.training.engine import choose_engine
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

CANDIDATES = 4  # pairs that are written for each one that people are asked about
MEMBERS = 4  # of the reward models of a loop that asks about disagreement
RANDOM_SHARE = 0.25  # of the chosen pairs that are random, so that figures are not of disputed pairs alone


class Ensemble:
    """The members of a run's reward model.

    Raises:
        RunError: there is no finished reward model, or it has one member.
    """

    def __init__(self, run: Run) -> None:
        folder = run.model("reward_model")
        folders = member_folders(Path(folder))
        if len(folders) < 2:
            raise RunError(
                f"{folder}: one reward model cannot disagree with itself; run: plaudit reward-model {run.path} "
                f"--members {MEMBERS} --overwrite"
            )
        self.run, self.tokenizer, self.members = run, open_tokenizer(run, folder), []
        for each in map(str, folders):
            classifier = load_reward_model(each, self.tokenizer.pad_id).to(run.device).requires_grad_(False)
            engine = choose_engine(run, "reward_model", classifier)
            engine.prepare(classifier)
            self.members.append(RewardModel(classifier, engine).eval())

    def gaps(self, pairs: Sequence[tuple[Text, list[int], list[int]]]) -> np.ndarray:
        """(members, N) score of the first response minus that of the second, for a prompt and two lists of tokens."""
        examples = [
            PreferenceExample(Judgement(p, ("", "")), tuple((self.tokenizer.prompt(p), ids) for ids in responses))
            for p, *responses in pairs
        ]
        scores = [predict(member, examples, self.tokenizer, self.run.device) for member in self.members]
        return np.array([of_member.reshape(-1, 2) @ (1.0, -1.0) for of_member in scores])


def disputed(gaps: np.ndarray, number: int, random: np.random.Generator) -> list[int]:
    """Which `number` of N pairs to ask about, by their gaps (members, N): those with the largest spread, and some at
    random."""
    shuffled = random.permutation(gaps.shape[1])
    by_chance = shuffled[: int((random.random(number) < RANDOM_SHARE).sum())]
    spread = gaps.std(0)
    rest = sorted(set(shuffled.tolist()) - set(by_chance.tolist()), key=lambda place: (-spread[place], place))
    return sorted([*by_chance.tolist(), *rest[: number - len(by_chance)]])
