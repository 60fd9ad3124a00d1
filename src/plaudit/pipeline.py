"""SFT -> reward model -> PPO -> evaluation in one run directory."""

from __future__ import annotations

from collections.abc import Iterator

from plaudit.config import Config
from plaudit.evaluation.evaluate import evaluate
from plaudit.stages.ppo import ppo
from plaudit.stages.reward import reward
from plaudit.stages.sft import sft
from plaudit.training.metrics import StepReport
from plaudit.training.run import STAGES, Run

_DRIVERS = {"sft": sft, "reward": reward, "ppo": ppo, "evaluation": evaluate}


def steps(config: Config, run: Run, stages: tuple[str, ...] = STAGES) -> Iterator[StepReport]:
    """Run these stages in order. A stage that has finished yields nothing, and evaluation follows any that ran."""
    worked = False
    for stage in stages:
        alone = stages == (stage,) and stage == "evaluation"
        if run.complete(stage) and not alone and not (stage == "evaluation" and worked):
            continue
        worked = True
        yield from _DRIVERS[stage](config, run)
