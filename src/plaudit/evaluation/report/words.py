"""What the figures of a run say, in words: the verdict, the warnings, and what each term means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One figure of `evaluation.json`: its key, its name and meaning for readers, and how it is written.

    `low` and `high` are the ends of its scale; `high` is None where there is none.
    """

    key: str
    name: str
    about: str
    form: str = "{:.0%}"
    low: float = 0.0
    high: float | None = 1.0


MEASURES = (
    Measure(
        "score_mean",
        "Score",
        "What the reward model gives a whole response, on average: −1 is surely negative, 1 surely positive.",
        "{:.2f}",
        low=-1.0,
    ),
    Measure(
        "judge_positive",
        "Judged positive",
        "Share of responses that an independent judge, not trained against, calls positive.",
    ),
    Measure(
        "kl_mean",
        "KL (nats)",
        "How far the policy has moved from the SFT model, per response. 0 is not at all; less is safer.",
        "{:.1f}",
        high=None,
    ),
    Measure(
        "perplexity_ref",
        "Perplexity",
        "How surprising the responses are to the SFT model: high is odd language, low is formulaic.",
        "{:.1f}",
        high=None,
    ),
    Measure("length_mean", "Length (tokens)", "Mean length of a response, end token included.", "{:.1f}", high=None),
    Measure("eos_rate", "Ended", "Share of responses that end by themselves rather than at the cap."),
    Measure(
        "distinct_2",
        "Distinct pairs",
        "Different pairs of neighbouring tokens ÷ all pairs: it falls when responses resemble one another.",
    ),
    Measure("duplicate_rate", "Duplicates", "Share of responses that repeat an earlier one word for word.", "{:.1%}"),
    Measure("distinct_1", "Distinct tokens", "Different tokens ÷ all tokens."),
)

FRONTIER_HEADS = ("", "KL", "score", "judged positive", "distinct", "length")

GLOSSARY = {
    "Prompt, response": "The given beginning of a text, and what a model writes after it.",
    "SFT model": "The language model after supervised fine-tuning: trained to imitate texts. PPO starts from it.",
    "Policy": "The language model that PPO trains.",
    "Reference": "The frozen SFT model that KL is measured against.",
    "Reward model": "A model trained on people's judgements that gives a response one number, a logit.",
    "Score": "What the reward model gives a whole response. On this page 2 · sigmoid(logit) − 1, from −1 to 1.",
    "Reward": "What PPO maximises, token by token: the score at the last token minus kl_coef times KL at each.",
    "KL": "How much more likely the policy finds its own responses than the reference does, in nats per response.",
    "Nat": "The unit of KL and entropy; 1 nat is a factor of e ≈ 2.7 in probability.",
    "Judge": "Another classifier, other data and other kind, that PPO never sees: it tells learning from gaming.",
    "95 % interval": "Made so that 95 of 100 such intervals contain the true figure; written [low, high].",
    "Entropy": "How undecided the policy is about the next token, in nats. Near 0 it says the same every time.",
    "Clip fraction": "Share of tokens whose probability moved so far in an update that PPO cut their gradient.",
    "Approximate KL": "How far one update moved the policy from the one that wrote its responses, in nats per token.",
    "Value head": "The part of the policy that forecasts the rest of the reward; it makes PPO's steps less noisy.",
    "Explained variance": "How well the value head forecasts: 1 is perfectly, 0 is no better than a constant.",
    "Ended (eos rate)": "Share of responses that finish with the end-of-text token, eos, before the cap.",
    "Calibration": "Whether 80 % certain is right 80 times in 100. The expected calibration error is the mean gap.",
    "Margin": "How sure the reward model is: the distance between two logits, or of one from 0.",
}


def number(table: Any, key: str) -> float | None:
    """The finite number under `key`; None where it is missing, null or something else."""
    return _finite(table.get(key)) if isinstance(table, dict) else None


def interval(table: Any, key: str) -> tuple[float, float] | None:
    """The interval [low, high] under `key`; None where there is none."""
    pair = table.get(key) if isinstance(table, dict) else None
    ends = [_finite(end) for end in pair] if isinstance(pair, list) and len(pair) == 2 else [None, None]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def written(value: float | None, form: str) -> str:
    """`value` in figures, with a true minus sign and an unbreakable space before %; a dash where there is none."""
    return "–" if value is None else form.format(value).replace("-", "−").replace("%", "\N{NO-BREAK SPACE}%")


def bracketed(ends: tuple[float, float] | None, form: str = "{:.2f}") -> str:
    """An interval in figures: [0.82, 0.86]; nothing where there is none."""
    return "" if ends is None else f"[{written(ends[0], form)}, {written(ends[1], form)}]"


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def verdict(evaluation: dict[str, Any], policy: list[dict[str, Any]], iterations: float | None) -> str:
    """What came of the run, in a sentence or two.

    Args:
        evaluation: contents of `evaluation.json`, or {}.
        policy: lines of `ppo/metrics.jsonl`.
        iterations: of PPO in the settings.
    """
    sft, after = evaluation.get("sft"), evaluation.get("policy")
    before_score, score = number(sft, "score_mean"), number(after, "score_mean")
    if before_score is None or score is None:
        return _progress(policy, iterations)
    difference = interval(evaluation.get("meta"), "score_difference_ci95")
    own = interval(after, "score_ci95")
    if difference is None and own is not None:
        difference = (own[0] - before_score, own[1] - before_score)
    low, high = difference or (score - before_score, score - before_score)
    figures = f"from {written(before_score, '{:.2f}')} to {written(score, '{:.2f}')} {bracketed(own)}".rstrip()
    if low > 0:
        text = f"PPO raised the mean score {figures}"
    elif high < 0:
        text = f"PPO lowered the mean score {figures}"
    else:
        text = f"PPO did not clearly change the mean score: {figures}"
    kl = number(after, "kl_mean")
    text += "." if kl is None else f" at {kl:.1f} nats of KL."
    judged = [written(number(side, "judge_positive"), "{:.0%}") for side in (sft, after)]
    if "–" not in judged:
        text += f" An independent judge calls {judged[1]} of the responses positive, {judged[0]} before."
    lengths = [written(number(side, "length_mean"), "{:.0f}") for side in (sft, after)]
    if "–" not in lengths:
        text += f" They are {lengths[1]} tokens long, {lengths[0]} before."
    return text


def _progress(policy: list[dict[str, Any]], iterations: float | None) -> str:
    scored = [line for line in policy if number(line, "score") is not None]
    if not scored:
        return "There are no figures of PPO yet."
    first, last = (written(number(line, "score"), "{:.2f}") for line in (scored[0], scored[-1]))
    of = "" if iterations is None else f" of {iterations:.0f}"
    at = written(number(scored[-1], "step"), "{:.0f}")
    kl = number(scored[-1], "kl")
    cost = "" if kl is None else f" at {kl:.1f} nats of KL"
    return (
        f"Not evaluated yet. At iteration {at}{of} the sampled responses score {last}{cost}; the first scored {first}."
    )


def warnings(evaluation: dict[str, Any]) -> list[str]:
    """What a careful reader should doubt about a score that rose; empty when nothing stands out."""
    sft, after = evaluation.get("sft"), evaluation.get("policy")

    def pair(key: str) -> tuple[float, float] | None:
        before, now = number(sft, key), number(after, key)
        return None if before is None or now is None else (before, now)

    said = evaluation.get("meta", {}).get("warnings") if isinstance(evaluation.get("meta"), dict) else None
    found = [w for w in said if isinstance(w, str)] if isinstance(said, list) else []
    score, judge, pairs = pair("score_mean"), pair("judge_positive"), pair("distinct_2")
    copies, length, ended = pair("duplicate_rate"), pair("length_mean"), pair("eos_rate")
    if score and judge and score[1] > score[0] and judge[1] < judge[0]:
        found.append(
            f"The score rose but the judge fell, from {written(judge[0], '{:.0%}')} to {written(judge[1], '{:.0%}')}: "
            "the policy is most likely gaming the reward model. The score is no success; raise kl_coef or train less."
        )
    if pairs and pairs[1] < 0.7 * pairs[0]:
        found.append("The responses have become alike: distinct pairs of tokens fell by over 30 %.")
    if copies and copies[1] > copies[0] + 0.05:
        found.append(f"{written(copies[1], '{:.0%}')} of the responses are copies of earlier ones.")
    if length and not 2 / 3 <= length[1] / max(length[0], 1e-9) <= 1.5:
        found.append("The length of the responses changed by more than half: part of the score may be due to length.")
    if ended and ended[1] < ended[0] - 0.1:
        found.append("Fewer responses end by themselves: the policy has begun to forget the end token.")
    return found


def on_or_above(points: list[dict[str, Any]], of: str, draws: int) -> str:
    """Where PPO lies above, level with and below best-of-n at equal KL, in a sentence.

    Args:
        points: PPO's of `frontier.json`.
        of: "score" or "judge". More draws never lower best-of-n's score, so a policy beyond the last n that scores less
            than that n is below at equal KL too; of the judge nothing is known there.
        draws: the last n.
    """
    found: dict[str, list[float]] = {}
    for point in points:
        above = point[f"{of}_above_best_of_n"]
        low, high = above["ci95"]
        place = "above" if low > 0 else "below" if high < 0 else "level with"
        if above["beyond"] and not (of == "score" and place == "below"):
            place = "beyond"
        found.setdefault(place, []).append(point["kl_mean"])
    parts = [
        f"{place} it with {len(kls)} of {len(points)} policies ({min(kls):.1f} to {max(kls):.1f} nats)"
        for place in ("above", "level with", "below")
        if (kls := found.get(place))
    ]
    name = {"score": "score", "judge": "judge's share of positives"}[of]
    said = f"PPO's {name} beside best-of-n's at equal KL, by paired 95% intervals: {', '.join(parts)}"
    if not parts:
        said = f"PPO's {name} cannot be compared with best-of-n's at equal KL"
    rest = len(found.get("beyond", []))
    tail = f"; {rest} went beyond the KL of best-of-{draws}, where there is nothing to compare them with"
    return said + (tail if rest else "") + "."


def point_cells(point: dict[str, Any], ends: tuple[str, ...]) -> tuple[str, ...]:
    """A point of `frontier.json` under `FRONTIER_HEADS`, with the intervals of those figures that `ends` names."""
    name = f"best of {point.get('n')}"
    if "kl_coef" in point:
        name = f"PPO {written(number(point, 'kl_coef'), '{:g}')} at {point.get('iteration')}"
    keys = {"kl": "kl_mean", "score": "score_mean", "judge": "judge_positive", "distinct_2": "distinct_2"}
    cells = [name]
    for of, key in (keys | {"length": "length_mean"}).items():
        form = "{:.1f}" if of == "length" else "{:.2f}"
        pair = interval(point, f"{of}_ci95") if of in ends else None
        cells.append(f"{written(number(point, key), form)} {bracketed(pair, form)}".rstrip())
    return tuple(cells)
