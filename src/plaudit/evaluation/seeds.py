"""Results of one experiment over several seeds: each seed, the means, and their confidence intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.evaluation.metrics import over_seeds_ci95, strict
from plaudit.evaluation.report.words import number, policy_of
from plaudit.files import write_json
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import Run

MOST_KL = 50.0  # nats per response; a policy that far from the SFT model counts as diverged
_LAST = 10  # iterations over which the sampled KL is averaged
_ONE_PER_SEED = ("reward_accuracy", "kl", "distinct_2_ratio", "length_ratio", "duplicate_rate")


def summarise(directory: Path, runs: list[Run], stopped: dict[int, str]) -> dict[str, Any]:
    """Write `seeds.json` of these runs, one per seed, into `directory`; `stopped` has the errors of those that failed.

    Returns:
        The contents of seeds.json: a row for each seed; the means over the seeds that finished (of score and judge:
        policy minus SFT on the same prompt) with 95% intervals over seeds and prompts; the number that diverged.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[str, list[np.ndarray]] = {"score_difference": [], "judge_difference": []}
    prompts: dict[str, list[list[Any]]] = {name: [] for name in groups}
    for run in runs:
        seed = run.config.seed
        if seed in stopped:
            rows.append({"seed": seed, "diverged": stopped[seed]})
            continue
        rows.append({"seed": seed, **row_of(run)})
        lines = read_jsonl(run.path / "responses.jsonl")
        pairs = [(line["prompt"], number(line, "policy_score"), number(line, "sft_score")) for line in lines]
        differences = [(p, after - before) for p, after, before in pairs if after is not None and before is not None]
        if differences:
            prompts["score_difference"].append([prompt for prompt, _ in differences])
            groups["score_difference"].append(np.array([difference for _, difference in differences]))
        if rows[-1]["judge"] is not None:
            policy, sft = (np.array([line[f"{model}_judge"] for line in lines]) > 0.5 for model in ("policy", "sft"))
            prompts["judge_difference"].append([line["prompt"] for line in lines])
            groups["judge_difference"].append(policy - sft.astype(float))
    for name in _ONE_PER_SEED:
        groups[name] = [np.array([row[name]]) for row in rows if row.get(name) is not None]
    means = {
        name: {
            "mean": float(np.mean([g.mean() for g in each])),
            "ci95": list(over_seeds_ci95(each, prompts.get(name, ()))) if sum(map(len, each)) > 1 else None,
        }
        for name, each in groups.items()
        if each
    }
    content = {"seeds": rows, "means": means, "diverged": sum(bool(row["diverged"]) for row in rows)}
    write_json(directory / "seeds.json", strict(content))
    return content


def diverged(evaluation: dict[str, Any], iterations: list[dict[str, Any]]) -> str:
    """Why a finished run counts as diverged; "" if it does not.

    A run has diverged if a metric of its policy (a line of metrics.jsonl each iteration or step) is not finite, if the
    policy is more than 50 nats from SFT or scores lower than SFT, or if the sampled KL (k1) over the last ten
    iterations is significantly negative: the true KL never is.
    """
    kl, after = (number(evaluation["policy"], key) for key in ("kl_mean", "score_mean"))
    before = number(evaluation["sft"], "score_mean")
    if kl is None or before is None or after is None or any(v is None for line in iterations for v in line.values()):
        return "a metric is not finite"
    if kl > MOST_KL:
        return f"KL of {kl:.0f} nats"
    k1 = np.array([line["kl_k1"] for line in iterations[-_LAST:] if "kl_k1" in line])
    if len(k1) > 1 and k1.mean() + 1.96 * k1.std(ddof=1) / len(k1) ** 0.5 < 0:
        return f"negative KL (k1) of {k1.mean():.2f} nats"
    if after < before:
        return f"score {after:.2f} below SFT's {before:.2f}"
    return ""


def row_of(run: Run) -> dict[str, Any]:
    """The figures of one evaluated run. The judge's are None where no judge fits the data."""
    evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
    sft, policy = evaluation["sft"], evaluation["policy"]

    def ratio(key: str) -> float | None:
        before, after = number(sft, key), number(policy, key)
        return after / before if before and after is not None else None

    trained = run.complete("reward_model")  # a run with another reward has no reward model
    return {
        "reward_accuracy": run.summary("reward_model").get("accuracy") if trained else None,
        "sft_score": sft["score_mean"],
        "score": policy["score_mean"],
        "sft_judge": sft["judge_positive"],
        "judge": policy["judge_positive"],
        "kl": policy["kl_mean"],
        "distinct_2_ratio": ratio("distinct_2"),
        "length_ratio": ratio("length_mean"),
        "duplicate_rate": policy["duplicate_rate"],
        "diverged": diverged(evaluation, read_jsonl(run.folder(policy_of(evaluation)) / "metrics.jsonl")),
    }
