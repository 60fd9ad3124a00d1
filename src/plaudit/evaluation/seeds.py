"""What several seeds of one experiment come to: every seed, the means, and how sure they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.evaluation.metrics import hierarchical_ci95
from plaudit.evaluation.report.words import number
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import Run, write_json

MOST_KL = 50.0  # nats a response: by then nothing is left of the SFT model
_LAST = 10  # iterations


def summarise(directory: Path, runs: list[Run], stopped: dict[int, str]) -> dict[str, Any]:
    """Leave `seeds.json` of these finished runs in `directory`.

    Args:
        stopped: why a seed's training could not go on, by seed.

    Returns:
        what seeds.json holds: a row for every seed; the means over those that finished, of policy minus SFT on the
        same prompt where there are two, with 95% intervals over seeds and prompts; and how many diverged.
    """
    rows, scores, judged = [], [], []
    for run in runs:
        seed = run.config.seed
        if seed in stopped:
            rows.append({"seed": seed, "diverged": stopped[seed]})
            continue
        evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
        sft, policy = evaluation["sft"], evaluation["policy"]
        rows.append(
            {
                "seed": seed,
                "reward_accuracy": run.summary("reward_model").get("accuracy"),
                "sft_score": sft["score_mean"],
                "score": policy["score_mean"],
                "sft_judge": sft["judge_positive"],
                "judge": policy["judge_positive"],
                "kl": policy["kl_mean"],
                "distinct_2_ratio": policy["distinct_2"] / sft["distinct_2"],
                "length_ratio": policy["length_mean"] / sft["length_mean"],
                "duplicate_rate": policy["duplicate_rate"],
                "diverged": diverged(evaluation, read_jsonl(run.folder("ppo") / "metrics.jsonl")),
            }
        )
        lines = read_jsonl(run.path / "responses.jsonl")
        scores.append(np.array([line["policy_score"] - line["sft_score"] for line in lines]))
        judged.append(np.array([(line["policy_judge"] > 0.5) - float(line["sft_judge"] > 0.5) for line in lines]))
    groups = {"score_difference": scores, "judge_difference": judged}
    finished = [row for row in rows if "score" in row]
    for name in ("reward_accuracy", "kl", "distinct_2_ratio", "length_ratio", "duplicate_rate"):
        figures = [row[name] for row in finished if row[name] is not None]
        groups[name] = [np.array([figure]) for figure in figures]  # one a seed: resampled over seeds alone
    content = {
        "seeds": rows,
        "means": {
            name: {
                "mean": float(np.mean([g.mean() for g in each])),
                "ci95": list(hierarchical_ci95(each, runs[0].config.seed)) if sum(map(len, each)) > 1 else None,
            }
            for name, each in groups.items()
            if each
        },
        "diverged": sum(bool(row["diverged"]) for row in rows),
    }
    write_json(directory / "seeds.json", content)
    return content


def diverged(evaluation: dict[str, Any], iterations: list[dict[str, Any]]) -> str:
    """Why a finished run counts as diverged; "" if it does not.

    A figure of PPO is not finite, the policy ended more than 50 nats from SFT or scores less than SFT does, or the
    sampled KL (k1) of the last ten iterations is negative beyond noise, which the true one cannot be.

    Args:
        evaluation: contents of evaluation.json.
        iterations: lines of ppo/metrics.jsonl.
    """
    kl, before, after = (
        number(evaluation[who], key)
        for who, key in (("policy", "kl_mean"), ("sft", "score_mean"), ("policy", "score_mean"))
    )
    if kl is None or before is None or after is None or any(v is None for line in iterations for v in line.values()):
        return "a figure is not finite"
    if kl > MOST_KL:
        return f"KL of {kl:.0f} nats"
    k1 = np.array([line["kl_k1"] for line in iterations[-_LAST:]])
    if len(k1) > 1 and k1.mean() + 1.96 * k1.std(ddof=1) / len(k1) ** 0.5 < 0:
        return f"negative KL (k1) of {k1.mean():.2f} nats"
    if after < before:
        return f"score {after:.2f} below SFT's {before:.2f}"
    return ""
