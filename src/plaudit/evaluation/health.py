"""The healthy band of each figure in metrics.jsonl, and what a value inside or outside of it means.

A band is a hint for readers: one figure outside of it is a reason to look, not a fault. `diagnosis` names faults, from
several figures together. Nothing here imports torch: the live page's server reads these bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from plaudit.training.metrics import PART

WINDOW = 4  # steps whose mean is compared; a single step is noise
SUPERVISED_WINDOW = 20  # of SFT and the reward model, whose steps are shorter
_SUPERVISED = ("sft", "reward_model")

State = Literal["healthy", "high", "low", "unknown"]


class Reading(NamedTuple):
    """What a figure's latest values mean, in one or two sentences."""

    state: State  # "unknown" where there are too few values, or where no value is better than another
    text: str


@dataclass(frozen=True)
class Band:
    """A figure, the values between which it is healthy, and what to say about it.

    Attributes:
        low, high: ends of the band; None for no end. Without both, every value is as good as another.
        of_start: whether the ends are factors of the figure's mean at the start.
        inside, above, below: readings.
    """

    name: str
    unit: str
    inside: str
    above: str = ""
    below: str = ""
    low: float | None = None
    high: float | None = None
    of_start: bool = False

    def ends(self, values: Sequence[Any], window: int = WINDOW) -> tuple[float | None, float | None]:
        """The band in the figure's own unit, for plots; (None, None) before the start is known."""
        if not self.of_start:
            return self.low, self.high
        start = mean_of(values[:window])
        if start is None or start <= 0 or len(values) < window:
            return None, None
        return tuple(None if end is None else end * start for end in (self.low, self.high))  # type: ignore[return-value]


BANDS: dict[str, Band] = {
    "score": Band(
        "Score",
        "",
        "The mean score of the responses. It should rise slowly; how high it can rise depends on the reward.",
    ),
    "score_std": Band(
        "Spread of the score",
        "",
        "The scores of an iteration differ, so there is something to learn from.",
        "The scores differ much more than at the start: look at single responses, the reward may reward outliers.",
        "The scores hardly differ any more, so the policy can learn little. If the score is high, it has saturated.",
        low=0.1,
        high=2.0,
        of_start=True,
    ),
    "score_normalised": Band(
        "Normalised score",
        "standard deviations of the SFT model's scores",
        "The score in units of the spread of the SFT model's own scores. It starts near 0.",
        "The score is far above anything that the SFT model writes. Read some responses: it may be reward hacking.",
        "The responses score worse than those of the SFT model. Lower lr, and check the sign of the reward.",
        low=-1.0,
        high=3.0,
    ),
    "reward": Band(
        "Reward",
        "standard deviations of the SFT model's scores",
        "The normalised score less the KL penalty. It is what training raises.",
        "",
        "The KL penalty costs more than the score gains. Lower lr, or lower kl_coef.",
        low=-1.0,
    ),
    "kl": Band(
        "KL",
        "nats/response",
        "The policy stays near the SFT model.",
        "The policy is far from the SFT model, so its score is less to be trusted. Raise kl_coef, or train less.",
        high=15.0,
    ),
    "kl_k1": Band(
        "KL, sampled",
        "nats/response",
        "The estimate of the KL from the sampled tokens. It agrees with the KL up to noise.",
        "The policy is far from the SFT model, so its score is less to be trusted. Raise kl_coef, or train less.",
        "Clearly below 0: the sampled tokens are less likely than they should be; run plaudit doctor.",
        low=-2.0,
        high=15.0,
    ),
    "entropy": Band(
        "Entropy",
        "nats/token",
        "The policy still chooses between several next tokens.",
        "The policy has become much less certain than the SFT model. Lower lr.",
        "The policy hardly chooses any more: entropy collapse. Raise kl_coef, lower lr, or train less.",
        low=0.5,
        high=1.4,
        of_start=True,
    ),
    "ratio_mean": Band(
        "Mean ratio",
        "",
        "The mean probability ratio of new to old policy is near 1, as it must be.",
        "The updates are too large for the ratio to stay near 1. Lower lr or epochs.",
        "The updates are too large for the ratio to stay near 1. Lower lr or epochs.",
        low=0.9,
        high=1.1,
    ),
    "ratio_max": Band(
        "Largest ratio",
        "",
        "No token has become much more likely in one iteration.",
        "Single tokens have become far more likely within one iteration. Lower lr or epochs if it stays so.",
        high=50.0,
    ),
    "clip_fraction": Band(
        "Clip fraction",
        "share of the tokens",
        "Few ratios leave the clip range, so the updates are of a sound size.",
        "Many ratios leave the clip range: each iteration moves the policy too far. Lower lr or epochs.",
        high=0.3,
    ),
    "approx_kl": Band(
        "Approximate KL of an update",
        "nats/token",
        "Each iteration moves the policy a little.",
        "An iteration moves the policy too far. Lower lr or epochs.",
        high=0.06,
    ),
    "approx_kl_max": Band(
        "Largest approximate KL of an update",
        "nats/token",
        "No step of an iteration moves the policy too far.",
        "A step moved the policy too far, and the rest of the iteration's update was left out. Lower lr if often.",
        high=0.3,
    ),
    "optimizer_steps": Band(
        "Optimizer steps",
        "steps/iteration",
        "All steps of an iteration's update are taken.",
        "",
        "Most steps are left out, because the first ones exceed kl_stop. Lower lr.",
        low=0.5,
        of_start=True,
    ),
    "loss": Band("Loss", "", "The loss of a policy has no meaning of its own; look at score and KL."),
    "policy_loss": Band(
        "Policy loss", "", "Near 0, because advantages are centred. It has no trend that means progress."
    ),
    "value_loss": Band(
        "Value loss",
        "",
        "The critic follows the returns.",
        "The critic's error grows. Lower lr, and check the value head and its loss.",
        high=3.0,
        of_start=True,
    ),
    "explained_variance": Band(
        "Explained variance",
        "",
        "The critic predicts a part of the returns. Up to 1 is better.",
        "",
        "The critic is worse than a constant. Its advantages are noisy: train value head or critic longer, lower lr.",
        low=-0.2,
    ),
    "value_correlation": Band(
        "Correlation of values and rewards",
        "",
        "The critic knows which responses will do better than others.",
        "",
        "The critic hardly knows which responses will do better. Compare with the correlation of a fit: if that is "
        "clearly higher, check how values are stored and trained.",
        low=0.1,
    ),
    "fit_correlation": Band(
        "Correlation of a fit and rewards",
        "",
        "What a linear fit on half of an iteration's responses would know of the other half: the critic should know "
        "about as much.",
    ),
    "kl_coef_measured": Band(
        "KL coefficient, measured",
        "score/nat",
        "What a nat of KL costs in the rewards that are learned from. It equals the KL coefficient, unless the penalty "
        "gets lost on its way.",
    ),
    "grad_norm": Band(
        "Gradient norm",
        "before clipping",
        "The gradients are of the size that they had at the start.",
        "The gradients are much larger than at the start. Lower lr if the score falls or KL jumps.",
        "There are almost no gradients: nothing is learned. Check the reward.",
        low=0.1,
        high=5.0,
        of_start=True,
    ),
    "response_length": Band(
        "Response length",
        "tokens",
        "The responses are about as long as the SFT model's.",
        "The responses have become much longer: the score may reward length.",
        "The responses have become much shorter: the score may reward brevity.",
        low=0.5,
        high=1.6,
        of_start=True,
    ),
    "eos_rate": Band(
        "Responses that end",
        "share of the responses",
        "Most responses end by themselves.",
        "",
        "Many responses are cut off at max_new_tokens, so their ends are never scored. Raise max_new_tokens.",
        low=0.8,
    ),
    "distinct_2": Band(
        "Distinct pairs",
        "share of the token pairs",
        "The responses differ from one another.",
        "",
        "The responses have become alike. Raise kl_coef, or train less.",
        low=0.7,
        of_start=True,
    ),
    "perplexity_ref": Band(
        "Perplexity under SFT",
        "",
        "The SFT model finds the responses about as natural as its own.",
        "The SFT model finds the language odd. Raise kl_coef, or lower lr.",
        "The language has become formulaic. Raise kl_coef, or train less.",
        low=0.6,
        high=1.6,
        of_start=True,
    ),
    "lr": Band("Learning rate", "", "A setting: it rises in the warmup and then falls to 0."),
    "kl_coef": Band(
        "KL coefficient", "score/nat", "The weight of the KL penalty; fixed unless kl_control is adaptive."
    ),
    "sft.loss": Band(
        "Loss",
        "nats/token",
        "The loss falls: the model learns the texts.",
        "The loss is no lower than at the start. Lower lr if it rises, raise lr if nothing moves.",
        "The loss is almost 0: the model knows the texts by heart. Train fewer epochs.",
        low=0.1,
        high=1.0,
        of_start=True,
    ),
    "reward_model.loss": Band(
        "Loss",
        "nats/record",
        "The loss is below that of a guess (0.69 for labels and comparisons).",
        "The loss is no better than a guess. Lower lr, or give more or cleaner judgements.",
        "The loss is almost 0: the model knows the records by heart. Train fewer epochs.",
        low=0.02,
        high=0.69,
    ),
    "accuracy": Band(
        "Accuracy in training",
        "share of the judgements",
        "The reward model agrees with most judgements that it is trained on.",
        "It agrees with nearly all of them: it may know them by heart; compare with the held-out accuracy.",
        "It agrees with few more judgements than a guess. Give more or cleaner judgements, or a larger model.",
        low=0.6,
        high=0.995,
    ),
}


def band_of(key: str, stage: str = "ppo") -> Band | None:
    """The band of a figure of a stage's metrics.jsonl; None for a figure that is not known."""
    if key.startswith(PART):
        return Band(f"Score: {key.removeprefix(PART)}", "", "The mean of this part of the reward over the responses.")
    return BANDS.get(f"{stage}.{key}", BANDS.get(key))


def reading(key: str, values: Sequence[Any], stage: str = "ppo") -> Reading:
    """What the latest values of a figure mean.

    Args:
        key: the figure's name in metrics.jsonl.
        values: one for each step so far, in order; None where there is none.
        stage: the stage that logged it.
    """
    band, window = band_of(key, stage), SUPERVISED_WINDOW if stage in _SUPERVISED else WINDOW
    if band is None:
        return Reading("unknown", "")
    if band.low is None and band.high is None:
        return Reading("unknown", band.inside)
    now, (low, high) = mean_of(values[-window:]), band.ends(values, window)
    few = band.of_start and len(values) < 2 * window  # the latest values must not be those of the start
    if now is None or few or (low is None and high is None):
        return Reading("unknown", "There are too few values for a reading.")
    if high is not None and now > high:
        return Reading("high", band.above)
    if low is not None and now < low:
        return Reading("low", band.below)
    return Reading("healthy", band.inside)


def mean_of(values: Sequence[Any]) -> float | None:
    """The mean of the finite numbers among some values; None if there are none."""
    known = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    return math.fsum(value / len(known) for value in known) if known else None  # a sum may be too large
