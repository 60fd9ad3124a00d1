"""Numbers and sentences about a run, for the report and the command line: measures, the verdict, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from plaudit.config import POLICIES, heading

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

OTHER_HEADS = ("", "SFT", "policy", "difference, 95% interval")
FRONTIER_HEADS = ("", "KL", "score", "judged positive", "distinct", "length")


def reward_phrase(reward: str) -> str:
    """The reward of this name, for use within a sentence."""
    return f"the {reward}" if reward in (REWARD_MODEL, CUSTOM_REWARD) else f"the reward {reward}"


def measures(reward: str, bounds: tuple[float, float] | None) -> tuple[Measure, ...]:
    """MEASURES, with the score that the reward of this name gives, within its bounds."""
    if reward == REWARD_MODEL and bounds == (-1, 1):
        return MEASURES
    about = f"Mean score that {reward_phrase(reward)} gives a response"
    about += f", from {bounds[0]:g} to {bounds[1]:g}.".replace("-", "−") if bounds else "; higher is better."
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


def title(stage: str) -> str:
    """An algorithm as a heading writes it."""
    return "Supervised fine-tuning" if stage == "sft" else heading(stage)


def policy_of(evaluation: Mapping[str, Any]) -> str:
    """The algorithm of the policy that `evaluation.json` compares with the SFT model; "" if it names none."""
    return next((name for name in POLICIES if name in evaluation), "")


def duration(seconds: float) -> str:
    """A time as text: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def verdict(
    evaluation: dict[str, Any], lines: list[dict[str, Any]], iterations: float | None, stage: str = POLICIES[0]
) -> str:
    """The result of a run, in one to four sentences.

    Args:
        evaluation: contents of `evaluation.json`, or {}.
        lines: of the policy's `metrics.jsonl`.
        iterations: number of its iterations in the settings.
        stage: the policy's algorithm.
    """
    name = title(stage)
    score, judge, length = (_pair(evaluation, key) for key in ("score_mean", "judge_positive", "length_mean"))
    if not score:
        return _progress(name, lines, iterations)
    before, after = score
    own = interval(evaluation["policy"], "score_ci95")
    paired = interval(evaluation.get("meta"), "score_difference_ci95")
    low, high = paired or [end - before for end in own or (after, after)]
    change = f"from {written(before, '{:.2f}')} to {written(after, '{:.2f}')} {bracketed(own)}".rstrip()
    if low > 0:
        text = f"{name} raised the mean score {change}"
    elif high < 0:
        text = f"{name} lowered the mean score {change}"
    else:
        text = f"{name} did not clearly change the mean score: {change}"
    kl = number(evaluation["policy"], "kl_mean")
    text += "." if kl is None else f" at {kl:.1f} nats of KL."
    if judge:
        shares = [written(share, "{:.0%}") for share in judge]
        text += f" An independent judge calls {shares[1]} of the responses positive, {shares[0]} before."
    meta = evaluation.get("meta")
    if judge and isinstance(meta, dict) and (sentence := judge_sentence(meta.get("judge"))):
        text += f" {sentence}"
    if not judge and isinstance(meta, dict) and (reason := no_judge_sentence(meta.get("no_judge"))):
        text += f" {reason}"
    if length:
        text += f" The responses are {length[1]:.0f} tokens long, {length[0]:.0f} before."
    return text


def judge_sentence(judge: Any) -> str:
    """What the judge was made for, and how often it is right on the data's own judgements; empty without a judge.

    `judge` is its entry in `evaluation.json`.
    """
    if not isinstance(judge, Mapping) or not isinstance(judge.get("domain"), str):
        return ""
    made = "was fitted on" if judge.get("name") == "fitted" else "is"
    sentence = f"The judge {made} {judge['domain']}"
    sentence = sentence.replace("is film reviews", "reads film reviews")
    share, count, imdb = (number(judge, key) for key in ("accuracy_task", "held_out", "accuracy_imdb"))
    rights = [f"{written(share, '{:.0%}')} of {count:.0f} held-out judgements of this data"] if share and count else []
    rights += [f"{written(imdb, '{:.0%}')} of held-out IMDb reviews"] if imdb else []
    return f"{sentence}; it is right about {' and '.join(rights)}." if rights else f"{sentence}; nothing measures it."


def no_judge_sentence(reason: Any) -> str:
    """Why there are no figures of a judge; empty if there are."""
    return f"There is no figure of a judge: {reason}." if isinstance(reason, str) and reason else ""


def _pair(evaluation: dict[str, Any], key: str) -> tuple[float, float] | None:
    """A figure of SFT and of the policy; None where one of them is missing."""
    before, after = (number(evaluation.get(side), key) for side in ("sft", "policy"))
    return None if before is None or after is None else (before, after)


def _progress(name: str, lines: list[dict[str, Any]], iterations: float | None) -> str:
    scored = [line for line in lines if number(line, "score") is not None]
    if not scored:
        return f"{name} has no results yet."
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
    meta = evaluation.get("meta")
    logged = meta.get("warnings") if isinstance(meta, dict) else None
    found = [w for w in logged if isinstance(w, str)] if isinstance(logged, list) else []
    score, judge, pairs, copies, length, ended = (
        _pair(evaluation, key)
        for key in ("score_mean", "judge_positive", "distinct_2", "duplicate_rate", "length_mean", "eos_rate")
    )
    if score and judge and score[1] > score[0] and judge[1] < judge[0]:
        fall = " to ".join(written(share, "{:.0%}") for share in judge)
        found.append(
            f"The score rose but the judge's share of positives fell from {fall}: probably reward hacking. "
            "Do not trust the score; raise kl_coef or train less."
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


def beside_accuracy(summary: dict[str, Any]) -> list[tuple[str, float, tuple[float, float] | None]]:
    """What stands beside the accuracy in a reward model's summary.json, as name, share and interval.

    These are what trivial rules reach on the same held-out judgements, and where several people judged the same texts,
    how often they agree with one another, and the model with them. Of two opposite rules the better one is named.
    """
    rules = summary.get("trivial_rules")
    rules = {k: v for k, v in rules.items() if isinstance(v, Mapping)} if isinstance(rules, Mapping) else {}
    opposite = sorted(("longer wins", "shorter wins"), key=lambda name: number(rules.get(name), "accuracy") or 0.0)
    people = {
        "two_people": "one person with another",
        "person_and_others": "one person with the majority of the others",
        "model_and_person": "reward model with one person",
    }
    rows = [
        (f"rule: {name}", number(rule, "accuracy"), interval(rule, "accuracy_ci95"))
        for name, rule in rules.items()
        if name != opposite[0]
    ]
    rows += [(name, number(summary.get("people"), key), None) for key, name in people.items()]
    return [(name, share, ends) for name, share, ends in rows if share is not None]


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """The warnings in a stage's summary.json."""
    found = summary.get("warnings")
    return [w for w in found if isinstance(w, str)] if isinstance(found, list) else []


def other_reward_cells(name: str, entry: Any) -> tuple[str, ...]:
    """An entry of `other_rewards.json` as cells under `OTHER_HEADS`: what a reward gives that was not trained for."""
    sides = (entry.get(side) if isinstance(entry, Mapping) else None for side in ("sft", "policy"))
    before, after = (number(side, "score_mean") for side in sides)
    change = None if before is None or after is None else after - before
    ends = interval(entry.get("meta") if isinstance(entry, Mapping) else None, "score_difference_ci95")
    difference = f"{written(change, '{:+.2f}')} {bracketed(ends)}".rstrip()
    return name, written(before, "{:.2f}"), written(after, "{:.2f}"), difference


def on_or_above(points: Sequence[dict[str, Any]], of: str, draws: int) -> str:
    """How the PPO policies of `frontier.json` compare with best-of-n at equal KL, in a sentence on "score" or "judge".

    A policy beyond the KL of best-of-`draws` has no best-of-n at equal KL. If its score is lower even so, it counts as
    below, because the score of best-of-n never falls as n grows; the judge's share may fall.
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
