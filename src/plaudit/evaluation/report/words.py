"""Numbers and sentences about a run, for the report and the command line: measures, the verdict, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

REWARD_MODEL, CUSTOM_REWARD = "reward model", "custom reward"  # the default reward, and one whose name is not known yet


class Measure(NamedTuple):
    """One figure of `evaluation.json`: its key there; name, meaning and format for readers; the end of its scale."""

    key: str
    name: str
    about: str
    form: str = "{:.0%}"
    high: float | None = 1.0  # None: no upper end


MEASURES = (
    Measure(
        "score_mean",
        "Score",
        "Mean score that the reward model gives a response: −1 is certainly negative, 1 certainly positive.",
        "{:.2f}",
    ),
    Measure(
        "judge_positive",
        "Judged positive",
        "Share of responses that an independent judge calls positive. Training does not use the judge.",
    ),
    Measure("kl_mean", "KL (nats)", "KL from the SFT model, per response. Lower is safer.", "{:.1f}", high=None),
    Measure(
        "perplexity_ref",
        "Perplexity",
        "Perplexity of the responses under the SFT model. High: odd language. Low: formulaic language.",
        "{:.1f}",
        high=None,
    ),
    Measure("length_mean", "Length (tokens)", "Mean length of a response, end token included.", "{:.1f}", high=None),
    Measure("eos_rate", "Ended", "Share of responses that end with the end token, before the length limit."),
    Measure("distinct_2", "Distinct pairs", "Different token pairs ÷ all pairs. Low: the responses are alike."),
    Measure("duplicate_rate", "Duplicates", "Share of responses that repeat an earlier one word for word.", "{:.1%}"),
    Measure("distinct_1", "Distinct tokens", "Different tokens ÷ all tokens."),
)

FRONTIER_HEADS = ("", "KL", "score", "judged positive", "distinct", "length")


def score_range(meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """The range of a response's score, from `meta` of evaluation.json; None where the reward has no bounds."""
    ends = interval(meta, "score_range")
    return ends if ends and ends[0] < ends[1] else None


def reward_phrase(meta: Mapping[str, Any]) -> str:
    """The reward that `meta` of evaluation.json names, for use within a sentence."""
    reward = meta["reward"]
    return f"the {reward}" if reward in (REWARD_MODEL, CUSTOM_REWARD) else f"the reward {reward}"


def measures(meta: Mapping[str, Any]) -> tuple[Measure, ...]:
    """MEASURES, with the score of the reward that `meta` of evaluation.json names."""
    ends = score_range(meta)
    if meta["reward"] == REWARD_MODEL and ends == (-1, 1):
        return MEASURES
    about = f"Mean score that {reward_phrase(meta)} gives a response"
    about += f", from {ends[0]:g} to {ends[1]:g}.".replace("-", "−") if ends else "; higher is better."
    return (MEASURES[0]._replace(about=about), *MEASURES[1:])


def number(table: Any, key: str) -> float | None:
    """The finite number under `key`; None where it is missing, null or something else."""
    return _finite(table.get(key)) if isinstance(table, Mapping) else None


def interval(table: Any, key: str) -> tuple[float, float] | None:
    """The interval [low, high] under `key`; None where there is none."""
    pair = table.get(key) if isinstance(table, Mapping) else None
    low, high = map(_finite, pair) if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)
    return None if low is None or high is None else (low, high)


def _finite(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e300 else None  # also without NaN and integers that are too large


def written(value: float | None, form: str) -> str:
    """`value` in this format, with a true minus sign and a no-break space before %; a dash for None."""
    return "–" if value is None else form.format(value).replace("-", "−").replace("%", "\N{NO-BREAK SPACE}%")


def bracketed(ends: tuple[float, float] | None, form: str = "{:.2f}") -> str:
    """An interval as text, such as [0.82, 0.86]; empty for None."""
    return "" if ends is None else f"[{written(ends[0], form)}, {written(ends[1], form)}]"


def duration(seconds: float) -> str:
    """A time as text: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def verdict(evaluation: dict[str, Any], policy: list[dict[str, Any]], iterations: float | None) -> str:
    """The result of a run, in one to three sentences.

    Args:
        evaluation: contents of `evaluation.json`, or {}.
        policy: lines of `ppo/metrics.jsonl`.
        iterations: number of PPO iterations in the settings.
    """
    sft, after = evaluation.get("sft"), evaluation.get("policy")
    before_score, score = number(sft, "score_mean"), number(after, "score_mean")
    if before_score is None or score is None:
        return _progress(policy, iterations)
    own = interval(after, "score_ci95")
    paired = interval(evaluation.get("meta"), "score_difference_ci95")
    low, high = paired or [end - before_score for end in own or (score, score)]
    change = f"from {written(before_score, '{:.2f}')} to {written(score, '{:.2f}')} {bracketed(own)}".rstrip()
    if low > 0:
        text = f"PPO raised the mean score {change}"
    elif high < 0:
        text = f"PPO lowered the mean score {change}"
    else:
        text = f"PPO did not clearly change the mean score: {change}"
    kl = number(after, "kl_mean")
    text += "." if kl is None else f" at {kl:.1f} nats of KL."
    before, judged = (number(side, "judge_positive") for side in (sft, after))
    if before is not None and judged is not None:
        shares = written(judged, "{:.0%}"), written(before, "{:.0%}")
        text += f" An independent judge calls {shares[0]} of the responses positive, {shares[1]} before."
    before, length = (number(side, "length_mean") for side in (sft, after))
    if before is not None and length is not None:
        text += f" The responses are {length:.0f} tokens long, {before:.0f} before."
    return text


def _progress(policy: list[dict[str, Any]], iterations: float | None) -> str:
    scored = [line for line in policy if number(line, "score") is not None]
    if not scored:
        return "PPO has no results yet."
    first, last = (written(number(line, "score"), "{:.2f}") for line in (scored[0], scored[-1]))
    of = "" if iterations is None else f" of {iterations:.0f}"
    at = written(number(scored[-1], "step"), "{:.0f}")
    kl = number(scored[-1], "kl")
    cost = "" if kl is None else f" at {kl:.1f} nats of KL"
    return (
        f"Not evaluated yet. At iteration {at}{of} the mean score of the sampled responses is {last}{cost}; "
        f"at the first it was {first}."
    )


def warnings(evaluation: dict[str, Any]) -> list[str]:
    """Reasons to doubt that a higher score means better responses; empty if there are none."""
    sft, after, meta = (evaluation.get(key) for key in ("sft", "policy", "meta"))

    def pair(key: str) -> tuple[float, float] | None:
        before, now = number(sft, key), number(after, key)
        return None if before is None or now is None else (before, now)

    logged = meta.get("warnings") if isinstance(meta, dict) else None
    found = [w for w in logged if isinstance(w, str)] if isinstance(logged, list) else []
    score, judge, pairs = pair("score_mean"), pair("judge_positive"), pair("distinct_2")
    copies, length, ended = pair("duplicate_rate"), pair("length_mean"), pair("eos_rate")
    if score and judge and score[1] > score[0] and judge[1] < judge[0]:
        found.append(
            f"The score rose but the judge's share of positives fell from {written(judge[0], '{:.0%}')} to "
            f"{written(judge[1], '{:.0%}')}: probably reward hacking. Do not trust the score; raise kl_coef or "
            "train less."
        )
    if pairs and pairs[1] < 0.7 * pairs[0]:
        found.append("The responses have become alike: distinct pairs of tokens fell by over 30 %.")
    if copies and copies[1] > copies[0] + 0.05:
        found.append(f"{written(copies[1], '{:.0%}')} of the responses are copies of earlier ones.")
    if length and not 2 / 3 <= length[1] / max(length[0], 1e-9) <= 1.5:
        found.append("The mean length of the responses changed by a factor over 1.5: the score may depend on length.")
    if ended and ended[1] < ended[0] - 0.1:
        found.append("Fewer responses end with the end token: the policy may be forgetting it.")
    return found


def on_or_above(points: Sequence[dict[str, Any]], of: str, draws: int) -> str:
    """How PPO compares with best-of-n at equal KL, in a sentence.

    Args:
        points: the PPO policies of `frontier.json`.
        of: "score" or "judge".
        draws: the largest n. A policy beyond its KL has no best-of-n at equal KL. If its score is lower even so, it
            counts as below, because the score of best-of-n never falls as n grows; the judge's share may fall.
    """
    found: dict[str, list[float]] = {"above": [], "level with": [], "below": [], "beyond": []}
    for point in points:
        if above := point.get(f"{of}_above_best_of_n"):  # null where no judge fits the data
            low, high = above["ci95"]
            place = "above" if low > 0 else "below" if high < 0 else "level with"
            if above["beyond"] and not (of == "score" and place == "below"):
                place = "beyond"
            found[place].append(point["kl_mean"])
    rest = len(found.pop("beyond"))
    parts = [
        f"{place} it for {len(kls)} of {len(points)} policies ({min(kls):.1f} to {max(kls):.1f} nats)"
        for place, kls in found.items()
        if kls
    ]
    name = "score" if of == "score" else "judge's share of positives"
    text = f"PPO's {name} cannot be compared with best-of-n at equal KL"
    if parts:
        text = f"PPO's {name} against best-of-n at equal KL, by paired 95% intervals: {', '.join(parts)}"
    tail = f"; {rest} beyond the KL of best-of-{draws}, where there is no comparison" if rest else ""
    return f"{text}{tail}."


def point_cells(point: dict[str, Any], ends: Sequence[str]) -> tuple[str, ...]:
    """A point of `frontier.json` as cells under `FRONTIER_HEADS`, with the intervals of the figures in `ends`."""
    name = f"best of {written(number(point, 'n'), '{:g}')}"
    if "kl_coef" in point:
        name = f"PPO {written(number(point, 'kl_coef'), '{:g}')} at {point.get('iteration')}"
    keys = {"kl": "kl_mean", "score": "score_mean", "judge": "judge_positive", "distinct_2": "distinct_2"}
    cells = [name]
    for of, key in (keys | {"length": "length_mean"}).items():
        form = "{:.1f}" if of == "length" else "{:.2f}"
        pair = interval(point, f"{of}_ci95") if of in ends else None
        cells.append(f"{written(number(point, key), form)} {bracketed(pair, form)}".rstrip())
    return tuple(cells)
