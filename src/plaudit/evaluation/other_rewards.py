"""A finished policy scored by a reward that it was not trained for, beside the evaluation of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator

from plaudit.evaluation.answers import figures
from plaudit.evaluation.evaluate import Measurement, policy_stage
from plaudit.evaluation.metrics import bootstrap_ci95, strict
from plaudit.evaluation.report import write_report
from plaudit.files import write_json
from plaudit.rewards import REWARD_MODEL, AnyReward
from plaudit.training.manifest import OTHER_REWARDS
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run


def evaluate_by(run: Run, reward: AnyReward) -> Iterator[StepReport]:
    """Score SFT and policy by another reward, one report a batch; adds an entry to RUN/other_rewards.json.

    RUN/report.html shows it from then on.

    Prompts and random numbers are those of the run's evaluation, and so are the responses. That evaluation stays as it
    is. An entry has the form of evaluation.json; its name is that of the reward.

    Raises:
        PlauditError: as in `evaluate`.
    """
    stage, path = policy_stage(run), run.path / OTHER_REWARDS
    measurement = Measurement(run, stage, reward)
    sft, policy, seconds = yield from measurement.reports()
    name, seed = measurement.reward.name, run.config.seed
    meta = {
        "prompts": len(sft.texts),
        "seed": seed,
        "reward": name,
        "trained_for": run.summary(stage).get("reward", REWARD_MODEL),
        "score_range": measurement.reward.score_range,
        "score_difference_ci95": bootstrap_ci95(policy.scores - sft.scores, seed),
    }
    before, after = (figures(answers, None, seed) for answers in (sft, policy))
    entry = {"sft": before, stage: after, "policy": after, "meta": meta}
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, strict(known | {name: entry}))
    write_report(run.path)
    gain = after["score_mean"] - before["score_mean"]
    timing = {"seconds": seconds, "tokens_per_second": 0.0}
    yield StepReport("evaluation", measurement.steps, measurement.steps, {"score_gain": gain}, timing)
