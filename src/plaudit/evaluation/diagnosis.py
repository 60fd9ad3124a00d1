"""What is wrong with a training run, named in plain language from what stands in its run directory.

It reads figures only and works while the run is in progress. A setting is no fault: it is mentioned where the figures
show what it does. Nothing here imports torch, so that the live page's server can use it. docs/training-faults.md has
each rule, and how often it is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from plaudit.config import POLICIES
from plaudit.errors import PlauditError
from plaudit.evaluation.health import SUPERVISED_WINDOW, WINDOW
from plaudit.evaluation.logged import Metrics, read_object
from plaudit.evaluation.report.words import number
from plaudit.evaluation.windows import hacking_warnings, windows_of

FAULTS = {
    "learning_rate": "learning rate too high",
    "critic": "broken critic",
    "entropy": "entropy collapse",
    "hacking": "deceived reward",
    "kl_penalty": "KL penalty off",
    "cut_off": "responses cut off",
    "leak": "data leak",
    "nothing_learned": "nothing learned",
}
FIRST = 8  # iterations before which nothing is said of a policy
SHARE = 1 / 3  # of the planned iterations before which a flat score is no fault

CLIPPED = 0.3  # share of the tokens whose ratio leaves the clip range, mean of an iteration
STEPS_LEFT = 0.5  # share of the optimizer steps that are taken before approximate KL exceeds kl_stop
KL_AT_ONCE = 8.0  # nats by which the KL changes from one iteration to the next ...
EARNED = 1.0  # ... while the score rises by less than this many standard deviations
UPDATE_KL = 0.3  # nats a token in an update, below which such a change comes from the responses and not from the update
FIT, CRITIC_LEFT = 0.15, 0.6  # correlation of a fit with the rewards that follow; share of it that the critic reaches
EXPLAINED = 0.05  # explained variance: less is no better than a constant
ENTROPY_LEFT = 0.5  # of the entropy at the start
KL_COEF, KL_FREE = 1e-3, 0.5  # standard deviations of the score a nat, and nats above which a missing penalty shows
ENDED = 0.7  # share of the responses
KL_NEAR = 0.5  # nats a response, below which the policy still writes as the SFT model does
LEAKED, FEW_LEAKED = 0.02, 3  # share of the held-out texts, and their number
Z = 2.0  # standard errors by which the score must have risen
STILL = 0.01  # nats of KL: less is rounding
LOSS_RISE, LOSS_FALL = 1.1, 0.99  # of a supervised stage's loss, last against first steps
_CAUSES = ("learning_rate", "critic", "entropy")
REFERENCE_SAMPLES = 256  # responses of the reference on which scores are normalised

Rule: TypeAlias = Callable[[Metrics], "Iterator[Finding]"]


@dataclass(frozen=True)
class Finding:
    """A fault that the figures of a stage show.

    Attributes:
        fault: a key of FAULTS.
        stage: the stage that shows it.
        sentence: one or two sentences: the fault's name, what is to be seen, and what to do.
        figures: the evidence.
        since: the step from which on it shows; None where it is no matter of time.
        follows: whether any other fault of the stage explains it.
    """

    fault: str
    stage: str
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)
    since: int | None = None
    follows: bool = False


def diagnose(folder: Path) -> list[Finding]:
    """The faults that a run directory shows so far; an empty list if there are none, or too few figures to tell.

    Files that are missing, or half written, are read as far as they go.
    """
    found: list[Finding] = []
    for stage in ("sft", "reward_model", *POLICIES):
        metrics = Metrics.of(folder, stage)
        rules = _POLICY_RULES if stage in POLICIES else _SUPERVISED_RULES
        found += _causes([finding for rule in rules for finding in rule(metrics)])
    return found


def _causes(found: list[Finding]) -> list[Finding]:
    """The findings of a stage without those that an earlier one explains, which names them in its sentence.

    Updates that are too large, a critic that misleads and a policy that has stopped choosing spoil everything that
    comes later. Nothing can be learned, and responses may not end, in a run with any other fault.
    """
    others = [finding for finding in found if not finding.follows]
    if not others:
        return found[:1]
    cause = min((f for f in others if f.fault in _CAUSES), key=lambda f: f.since or 0, default=None)
    if cause is None:
        return others
    kept = (cause.fault, "hacking")  # a warning that has been given stays
    effects = [f for f in found if f.fault not in kept and (f.since or 0) > (cause.since or 0)]
    follows = ", ".join(f"{FAULTS[f.fault]} (since iteration {f.since})" for f in effects)
    named = replace(cause, sentence=f"{cause.sentence} It explains what shows later: {follows}.") if follows else cause
    return [named if f is cause else f for f in others if f not in effects]


def _too_high(m: Metrics) -> Iterator[Finding]:
    """Each iteration moves the policy too far."""
    minibatches = math.ceil(m.setting("batch_size", 1) / max(1.0, m.setting("minibatch_size", 1)))
    planned = max(1.0, m.setting("epochs", 1)) * minibatches
    steps, clipped = m.recent("optimizer_steps") / planned, m.recent("clip_fraction")
    whole = np.arange(len(m)) >= WINDOW - 1  # a single update that was too large is no fault
    # A policy may go far at once after a reward that is easily earned; here it goes far and earns nothing.
    earned = np.diff(m["score_normalised"], prepend=m["score_normalised"][:1])
    small = np.concatenate([[False], m["approx_kl_max"][:-1] < UPDATE_KL])  # the update before; unknown is not small
    jumps = np.where((earned < EARNED) & ~small, np.abs(np.diff(m["kl"], prepend=m["kl"][:1])), 0.0)
    stopped = whole & (steps < STEPS_LEFT) & np.isfinite(m.recent("approx_kl_max"))  # by kl_stop
    shows = stopped | (whole & (clipped > CLIPPED)) | (jumps > KL_AT_ONCE)
    if (since := m.any_since(shows)) is None:
        return
    signs = []
    if stopped.any():
        signs.append(f"only {-_largest(-steps[whole]):.0%} of the optimizer steps are taken before kl_stop ends them")
    if (whole & (clipped > CLIPPED)).any():
        signs.append(f"up to {_largest(clipped[whole]):.0%} of the ratios leave the clip range")
    if (jumps > KL_AT_ONCE).any():
        signs.append(f"the KL changes by up to {_largest(jumps):.1f} nats in one iteration")
    figures = {"steps_taken": -_largest(-steps), "clip_fraction": _largest(clipped), "kl_jump": _largest(jumps)}
    text = f"Each update moves the policy too far: {', and '.join(signs)}. Lower lr by a factor of 3 to 10."
    yield _finding("learning_rate", m, text, figures, since)


def _broken_critic(m: Metrics) -> Iterator[Finding]:
    """The values say less about the rewards that follow than a fit of a moment would, or move away from them."""
    known, fit, explained = (m.half(name) for name in ("value_correlation", "fit_correlation", "explained_variance"))
    figures = {"value_correlation": known, "fit_correlation": fit, "explained_variance": explained}
    negative = m.since(m.recent("value_loss") < 0)
    if negative is not None:
        text = (
            f"The value loss is {m.now('value_loss'):.2f}, and a squared error is never below 0: the critic is trained "
            "away from the returns. Check the sign of the value loss."
        )
        yield _finding("critic", m, text, figures | {"value_loss": m.now("value_loss")}, negative)
    elif fit > FIT and known < CRITIC_LEFT * fit and explained < EXPLAINED:
        text = (
            f"The values of the critic correlate with the rewards that follow at {known:.2f}, where a linear fit on "
            f"half of an iteration's responses reaches {fit:.2f} on the other half; the explained variance is "
            f"{explained:.2f}, no better than a constant. Check the sign of the value loss, value_coef, and which "
            "response a value belongs to."
        )
        lasting = m.recent("value_correlation") < CRITIC_LEFT * m.recent("fit_correlation")
        yield _finding("critic", m, text, figures, m.since(lasting) or int(m["step"][len(m) // 2]))


def _entropy_collapse(m: Metrics) -> Iterator[Finding]:
    """The policy hardly chooses any more."""
    before, recent = m.start("entropy"), m.recent("entropy")
    since = m.since(recent < ENTROPY_LEFT * before)
    if since is not None:
        text = (
            f"The entropy has fallen from {before:.2f} to {recent[-1]:.2f} nats a token: the policy hardly chooses any "
            "more, and the responses become alike. Check the sign of an entropy bonus, lower lr, or raise kl_coef."
        )
        figures = {"entropy_start": before, "entropy": recent[-1], "distinct_2": m.now("distinct_2")}
        yield _finding("entropy", m, text, figures, since)


def _deceived_reward(m: Metrics) -> Iterator[Finding]:
    """The score rises, and what it stands for falls."""
    try:
        warnings = hacking_warnings(windows_of(m.folder))
    except (PlauditError, OSError, TypeError, ValueError, AttributeError):  # half written
        return
    for warning in warnings:
        figures = {"score_before": warning.before.score, "score_now": warning.now.score}
        yield Finding("hacking", m.stage, warning.text, _plain(figures), warning.now.step)


def _no_penalty(m: Metrics) -> Iterator[Finding]:
    """The KL grows, and costs nothing."""
    kl, cost = m.recent("kl"), m.recent("kl_coef_measured")
    since = m.since((kl > KL_FREE) & (cost < KL_COEF))
    if since is None:
        return
    text = (
        f"The KL has grown to {kl[-1]:.1f} nats a response without a counterweight: a nat costs {cost[-1]:.3f} of the "
        "score. "
    )
    if m.setting("kl_coef", math.nan) == 0:
        text += "kl_coef is 0; if that is not on purpose, give it a value such as 0.15."
    else:
        text += (
            f"kl_coef is {m.now('kl_coef'):g}, so the penalty gets lost on its way into the reward: check that code."
        )
    yield _finding("kl_penalty", m, text, {"kl": kl[-1], "kl_coef_measured": cost[-1]}, since)


def _cut_off(m: Metrics) -> Iterator[Finding]:
    """The length limit ends the responses: those of the SFT model already, or those that the policy has learned."""
    if m.setting("min_new_tokens"):  # with drawn limits, cutting is the plan
        return
    # At first the policy is the SFT model. Where that writes whole responses, the limit is high enough for its texts.
    by_sft, recent = m.start("eos_rate", 2 if m["kl"][1] < KL_NEAR else 1), m.recent("eos_rate")
    limit = f"max_new_tokens = {m.setting('max_new_tokens', math.nan):g}"
    figures = {"eos_rate": recent[-1], "eos_rate_sft": by_sft, "response_length": m.now("response_length")}
    if by_sft < ENDED:
        text = (
            f"Only {by_sft:.0%} of the SFT model's own responses end by themselves; the others are cut off at {limit}, "
            "and their score is that of a fragment. "
        )
        if recent[-1] >= ENDED:
            text += f"By now {recent[-1]:.0%} end, because the policy has learned to write shorter ones. "
        text += "Raise max_new_tokens; if the SFT model does not end its texts, train it longer."
        yield _finding("cut_off", m, text, figures, int(m["step"][0]))
    elif (since := m.since(recent < ENDED)) is not None:
        text = (
            f"Only {recent[-1]:.0%} of the responses end by themselves, and {by_sft:.0%} of the SFT model's did: the "
            f"policy has learned to write on until it is cut off at {limit}. If longer responses are wanted, raise "
            "max_new_tokens; otherwise raise kl_coef or missing_eos_penalty."
        )
        yield _finding("cut_off", m, text, figures, since, follows=True)


def _flat(m: Metrics) -> Iterator[Finding]:
    """The score is what it was before training."""
    planned = m.setting("iterations", len(m))
    if len(m) < SHARE * planned:
        return
    half = slice(len(m) // 2, None)
    # Normalised scores have mean 0 and standard deviation 1 on the reference's responses, before the penalty for those
    # that do not end.
    scores = m["score_normalised"][half] + m.setting("missing_eos_penalty") * (1 - m["eos_rate"][half])
    known = scores[np.isfinite(scores)]
    if not len(known):
        return
    responses = max(1.0, m.setting("batch_size", 1)) * len(known)
    gain, error = float(known.mean()), math.sqrt(1 / REFERENCE_SAMPLES + 1 / responses)
    moved, spread = m.now("kl"), m.now("score_std")
    still = moved < STILL
    if gain > Z * error and not still:
        return
    why = "The policy has not moved at all: check lr, and that its weights are trained."
    if not still:
        why = "The policy moves and the score does not follow: check that the reward depends on the response."
        if spread == 0:
            why = "The reward gives every response the same score, so there is nothing to learn: check it."
    text = (
        f"The score of the last {len(known)} iterations is {gain:+.2f} standard deviations from that of the SFT model, "
        f"where noise alone reaches {Z * error:.2f}, at a KL of {moved:.2f} nats. {why}"
    )
    figures = {"gain": gain, "standard_error": error, "kl": moved}
    yield _finding("nothing_learned", m, text, figures, follows=True)


def _leak(m: Metrics) -> Iterator[Finding]:
    """Held-out texts are nearly copies of texts in training."""
    found = read_object(m.folder / "summary.json").get("near_copies")
    count, texts = number(found, "count") or 0, number(found, "texts") or 0
    if not isinstance(found, Mapping) or count < max(FEW_LEAKED, LEAKED * texts):
        return
    example = found.get("example")
    shown = _shortened(example.get("held_out")) if isinstance(example, Mapping) else ""
    text = (
        f"{count:.0f} of {texts:.0f} held-out texts stand nearly word for word in the training texts"
        f"{f', such as {shown!r}' if shown else ''}. Held-out figures are too good: remove these texts from one side."
    )
    yield _finding("leak", m, text, {"count": count, "texts": texts})


def _supervised(m: Metrics) -> Iterator[Finding]:
    """The loss rises, or stays."""
    loss, n = m["loss"], SUPERVISED_WINDOW
    if len(m) < 3 * n:
        return
    first, last = (float(np.nanmean(some)) if np.isfinite(some).any() else math.nan for some in (loss[:n], loss[-n:]))
    figures = {"loss_first": first, "loss_last": last}
    change = f"The mean loss of {n} steps went from {first:.2f} to {last:.2f}"
    if last > LOSS_RISE * first:
        yield _finding("learning_rate", m, f"{change}: training makes the model worse. Lower lr.", figures)
    elif last > LOSS_FALL * first:
        text = f"{change}: nothing is learned. Check lr, the data, and that weights are trained."
        yield _finding("nothing_learned", m, text, figures, follows=True)


def _after_first(rule: Rule) -> Rule:
    """The rule, from the eighth iteration on."""
    return lambda m: rule(m) if len(m) >= FIRST else iter(())


_POLICY_RULES = (
    *map(_after_first, (_too_high, _broken_critic, _entropy_collapse, _no_penalty, _cut_off, _flat)),
    _deceived_reward,  # whose windows have a length of their own
)
_SUPERVISED_RULES = (_leak, _supervised)


def _finding(
    fault: str, m: Metrics, text: str, figures: Mapping[str, Any], since: int | None = None, *, follows: bool = False
) -> Finding:
    name = f"{FAULTS[fault][0].upper()}{FAULTS[fault][1:]}" + (f", since iteration {since}" if since else "")
    return Finding(fault, m.stage, f"{name}: {text}", _plain(figures), since, follows)


def _plain(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}


def _largest(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else math.nan


def _shortened(text: Any, most: int = 80) -> str:
    return text if isinstance(text, str) and len(text) <= most else f"{text[:most]}..." if isinstance(text, str) else ""
