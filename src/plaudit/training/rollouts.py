"""The rollout loop that algorithms share: sample responses, score them, update on minibatches, log and save."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit import rng
from plaudit.batches import Responses, Rollout, cut
from plaudit.data.text import distinct
from plaudit.errors import RewardError
from plaudit.maths.kl import adapt_kl_coef, bias
from plaudit.maths.losses import Loss
from plaudit.maths.masked import float64, masked_mean, unflatten
from plaudit.models.loading import window
from plaudit.models.policy import Policy
from plaudit.models.sharding import unsharded
from plaudit.models.tokenizer import Tokenizer, pad_left
from plaudit.rewards import AnyReward
from plaudit.training import dist, stopping
from plaudit.training.checkpoint import due
from plaudit.training.metrics import PART, StepReport
from plaudit.training.models import Models
from plaudit.training.optimizer import adamw, set_lr, take_notes, update, warmup_then_linear
from plaudit.training.prompts import prompts_of, prompts_to_answer
from plaudit.training.rewards import REFERENCE_SAMPLES, as_reward, run_sources
from plaudit.training.run import Run
from plaudit.training.token_log import token_columns
from plaudit.training.trackers import tracking

_ADAM_EPS = 1e-5


@dataclass(frozen=True)
class ScoreScale:
    """Shifts and scales raw scores, so that kl_coef and the value head mean the same for any reward."""

    mean: float  # of the raw scores of reference responses
    std: float
    missing_eos_penalty: float  # subtracted from the score of a response that the length limit cut off

    @staticmethod
    def measured(raw: Float[Tensor, "B"], missing_eos_penalty: float) -> "ScoreScale":
        """The scale at which these raw scores of reference responses have mean 0 and standard deviation 1."""
        std = raw.std().item() if len(raw) > 1 else 0.0
        return ScoreScale(raw.mean().item(), max(std, 1e-6), missing_eos_penalty)

    def scores(self, raw: Float[Tensor, "B"], ended: Bool[Tensor, "B"]) -> Float[Tensor, "B"]:
        """(B,) normalised scores, less the penalty where the response did not end."""
        return (raw - self.mean) / self.std - self.missing_eos_penalty * ~ended


def generate(
    policy: Policy, prompts: list[list[int]], noise: Float[Tensor, "B R"], tokenizer: Tokenizer, temperature: float
) -> Responses:
    """Sample one response to each prompt; `noise` in [0, 1) decides every draw, and R limits the response length.

    Where the noise of a row is NaN (see `rng.uniforms`), the response is cut: it is sampled like the others and loses
    its end afterwards, so that the tokens that stay have the probabilities that are scored.
    """
    device = next(policy.parameters()).device
    ids, mask = pad_left(prompts, tokenizer.pad_id)
    # The random numbers are float64, which not every device has; they move as they are needed.
    drawn = noise.nan_to_num(0.0)
    with unsharded(policy.lm, layers_too=True):  # ranks stop at different lengths
        responses = policy.engine.generate(
            policy.lm, ids.to(device), mask.to(device), drawn, tokenizer.end_ids, tokenizer.pad_id, temperature
        )
    missing = noise.isnan()
    return cut(responses, (~missing).sum(1).to(device), tokenizer.pad_id) if missing.any() else responses


def score_rollout(
    policy: Policy,
    reference: Any,
    responses: Responses,
    raw: Float[Tensor, "B"],
    scale: ScoreScale,
    temperature: float,
    kl_estimator: str = "k1",
) -> tuple[Rollout, Float[Tensor, "N D"]]:
    """What policy and reference say about the responses, in one pass each and without gradients.

    Args:
        kl_estimator: of `penalised_kl`, as in `RolloutConfig`.

    Returns:
        the rollout; (N, D) the policy's hidden states that predict the response tokens.
    """
    mask = responses.response_mask
    found = policy.engine.compare(policy.lm, reference, responses, temperature)
    rollout = Rollout(
        responses=responses,
        logprobs=unflatten(found.logprobs, mask),
        ref_logprobs=unflatten(found.ref_logprobs, mask),
        kl=unflatten(found.kl, mask),
        entropy=unflatten(found.entropy, mask),
        penalised_kl=unflatten(found.estimate(kl_estimator), mask),
        raw_scores=raw,
        scores=scale.scores(raw, responses.ended),
    )
    return rollout, found.states


@dataclass(frozen=True)
class Objective:
    """What an algorithm makes of a rollout, for its training and for the preflight checks."""

    batch: Callable[[Any, Rollout, Any, float, Any], Any]  # of policy, rollout, states (N, D), kl_coef and settings
    loss: Callable[[Any, Any, Any], tuple[Loss, dict[str, Tensor]]]  # of policy, batch and settings
    count: Callable[[Any, Any], int]  # of a batch and settings: what the loss is divided by
    value_head: bool = False  # whether the policy has one
    # Of a batch and settings: what the loss of each token is divided by before the sum, (B, 1) or (1,).
    token_divisor: Callable[[Any, Any], Tensor] = lambda batch, settings: torch.ones(1)


def penalised_loss(
    objective: Objective, policy: Policy, reference: Any, batch: Any, kl_coef: float, settings: Any
) -> tuple[Loss, dict[str, Tensor]]:
    """An objective's loss plus KL from the reference less an entropy bonus, each token with its share of that loss."""
    (total, count), figures = objective.loss(policy, batch, settings)
    if kl_coef or settings.entropy_coef:
        responses = batch.rollout.responses
        found = policy.engine.compare(policy.lm, reference, responses, settings.temperature, gradient=True)
        mask = responses.response_mask
        divisor = objective.token_divisor(batch, settings).to(mask.device).expand(mask.shape)[mask]
        kl, entropy = (found.estimate(settings.kl_estimator) / divisor).sum(), (found.entropy / divisor).sum()
        total = total + kl_coef * kl - settings.entropy_coef * entropy
        figures = figures | {"kl_loss": kl.detach(), "entropy_loss": entropy.detach()}
    return (total, count), figures


@dataclass(frozen=True)
class Iteration:
    """One iteration of a rollout loop, before its update."""

    number: int  # counted from 0
    rollout: Rollout
    measured: dict[str, Tensor]  # what each part of the reward gives the responses (B,)
    states: Any  # the policy's hidden states (N, D) that predict the response tokens; None without a value head
    kl_coef: float
    lr: float
    began: float  # by time.perf_counter()


class RolloutLoop:
    """Iterations of sampling and scoring, resumed from the newest checkpoint if there is one.

    Args:
        stage: the algorithm, whose settings are a `RolloutConfig`.
        reward: as in `ppo`.
    Attributes:
        initial: responses of the reference with their normalised scores (B,); None when training was resumed.
    """

    def __init__(self, run: Run, stage: str, models: Models, reward: AnyReward) -> None:
        self._run, self._stage, self._models, self._settings = run, stage, models, getattr(run.config, stage)
        self._reward = as_reward(run, reward, models, self._settings.lower_bound)
        self._prompts, self._dropped = prompts_to_answer(
            run, models.tokenizer, self._settings.max_new_tokens, window(models.policy.lm)
        )
        self._optimizer = adamw(models.policy, self._settings.lr, eps=_ADAM_EPS)
        self._checkpoints, self._log = run.checkpoints(stage, run_sources(run, reward)), run.log(stage)
        state = self._checkpoints.restore(models.policy, self._optimizer)
        self._first = self._saved = state["step"]
        self._asked = False  # to stop after the iteration that is running
        self.initial: tuple[Responses, Tensor] | None = None
        if self._first:
            self._scale, self._kl_coef = ScoreScale(**state["scale"]), state["kl_coef"]
            return
        some = list(itertools.islice(itertools.cycle(self._prompts), REFERENCE_SAMPLES))
        sampled, own = self._sample(some, 0, "reference")
        responses, measured, _ = dist.gathered(len(some), sampled, own, pad_id=models.tokenizer.pad_id)
        raw = self._reward.total(measured)
        self._scale = ScoreScale.measured(raw, self._settings.missing_eos_penalty)
        self._kl_coef = self._settings.kl_coef
        self.initial = responses, self._scale.scores(raw, responses.ended)

    def __iter__(self) -> Iterator[Iteration]:
        """Sample, score and hand out the iterations that remain; each must be finished before the next is asked for."""
        dist.share_weights(self._models.policy.parameters())
        tracked = tracking(self._run, self._stage, self._first)
        with stopping.training_loop(self._stage), tracked as self._track:
            for number in range(self._first, self._settings.iterations):
                yield self._begin(number)
                if self._asked and number + 1 < self._settings.iterations:
                    stopping.stop()

    def _begin(self, number: int) -> Iteration:
        began, settings, models = time.perf_counter(), self._settings, self._models
        group = getattr(settings, "group_size", 1)
        some = prompts_of(number, self._prompts, settings.batch_size // group, self._run.config.seed)
        prompts = [prompt for prompt in some for _ in range(group)]
        try:
            responses, measured = self._sample(prompts, number, "responses")
        except RewardError:  # nothing has changed since the last iteration
            if number > self._saved:
                self._save(number)
            raise
        raw = self._reward.total(measured)
        rollout, states = score_rollout(
            models.policy,
            models.reference,
            responses,
            raw,
            self._scale,
            settings.temperature,
            settings.kl_estimator,
        )
        kept = [states] if models.policy.value_head is not None else []  # only a value head reads them
        rollout, measured, states = dist.gathered(
            len(prompts), rollout, measured, *kept, pad_id=models.tokenizer.pad_id
        )
        lr = settings.lr * warmup_then_linear(number, settings.iterations, settings.warmup)
        set_lr(self._optimizer, lr)
        return Iteration(number, rollout, measured, states, self._kl_coef, lr, began)

    def update(
        self,
        iteration: Iteration,
        objective: Objective,
        stop: tuple[str, float] | None = None,
    ) -> tuple[Any, dict[str, float]]:
        """The batch that an objective makes of an iteration, and the figures of the policy's `update` on it.

        The orders of the rows follow from seed, stage and iteration.
        """
        policy, reference = self._models.policy, self._models.reference
        settings, number, seed = self._settings, iteration.number, self._run.config.seed
        in_reward, in_loss = (iteration.kl_coef, 0.0) if settings.kl_in == "reward" else (0.0, iteration.kl_coef)
        batch = objective.batch(policy, iteration.rollout, iteration.states, in_reward, settings)
        epochs = range(number * settings.epochs, (number + 1) * settings.epochs)
        orders = [rng.permutation(settings.batch_size, seed, self._stage, epoch) for epoch in epochs]
        where = f"{self._stage} iteration {number + 1}"
        figures = update(
            policy,
            self._optimizer,
            batch,
            lambda minibatch: penalised_loss(objective, policy, reference, minibatch, in_loss, settings),
            lambda minibatch: objective.count(minibatch, settings),
            settings,
            orders,
            where,
            stop,
        )
        return batch, figures

    def finish_iteration(self, iteration: Iteration, batch: Any, figures: dict[str, float]) -> StepReport:
        """Log an iteration, with its batch and `figures` of its update, and save a checkpoint where one is due."""
        settings, rollout, responses = self._settings, iteration.rollout, iteration.rollout.responses
        mask, mean_kl = responses.response_mask, rollout.kl.sum(1).mean().item()
        shown, tokens = self._reward.shown(rollout.raw_scores), responses.tokens()
        metrics = {
            "score": shown.mean().item(),
            "score_std": shown.std().item(),
            **{f"{PART}{name}": values.mean().item() for name, values in iteration.measured.items()},
            "score_normalised": rollout.scores.mean().item(),
            "kl": mean_kl,
            "kl_k1": (rollout.logprobs - rollout.ref_logprobs).sum(1).mean().item(),
            "entropy": masked_mean(rollout.entropy, mask).item(),
            **figures,
            "response_length": mask.sum(1).float().mean().item(),
            "eos_rate": responses.ended.float().mean().item(),
            "distinct_2": distinct(tokens, 2),
            "perplexity_ref": float64(masked_mean(-rollout.ref_logprobs, mask)).exp().item(),
            "lr": iteration.lr,
            "kl_coef": iteration.kl_coef,
        }
        if settings.kl_control == "adaptive":
            n = len(tokens)
            self._kl_coef = adapt_kl_coef(self._kl_coef, mean_kl, settings.kl_target, n, settings.kl_horizon)
        seconds = time.perf_counter() - iteration.began
        timing = {"seconds": seconds, "tokens_per_second": mask.sum().item() / seconds}
        tokenizer, ids, number = self._models.tokenizer, responses.prompts(), iteration.number + 1
        prompts = [tokenizer.text(prompt) for prompt in ids]
        texts = [tokenizer.continuation(p, t) for p, t in zip(ids, tokens, strict=True)]
        sample = (prompts[0], texts[0])
        wrong = bias(settings.kl_estimator, settings.kl_in) if settings.kl_coef and number == 1 else ""
        notes = (*filter(None, [wrong]), *self._checkpoints.take_notes(), *take_notes(self._models.policy))
        report = StepReport(self._stage, number, settings.iterations, metrics, timing, notes, sample)
        self._log.append(report)
        report = self._track(report)
        self._log.log_responses(
            number, prompt=prompts, response=texts, score=shown.tolist(),
            **{f"{PART}{name}": values.tolist() for name, values in iteration.measured.items()},
            kl=rollout.kl.sum(1).tolist(), length=[len(t) for t in tokens], ended=responses.ended.tolist(),
        )  # fmt: skip
        in_reward = iteration.kl_coef if settings.kl_in == "reward" else 0.0
        self._log.log_tokens(number, **token_columns(tokenizer, batch, rollout, in_reward))
        self._asked = dist.any_rank(stopping.requested())
        if due(number, settings.iterations, settings.save_every, self._run.saved_after) or self._asked:
            self._save(number)
        return report

    def _save(self, number: int) -> None:
        state = {"scale": dataclasses.asdict(self._scale), "kl_coef": self._kl_coef}
        self._checkpoints.save(number, self._models.policy, self._optimizer, state)
        self._saved = number

    def finish(self) -> None:
        """Save the policy as a plain model folder, with its value head beside it, and mark the stage as complete."""
        self._models.save_policy(self._run, self._stage, self._optimizer)
        summary = {"iterations": self._settings.iterations, "prompts": len(self._prompts), "dropped": self._dropped}
        summary |= {"reward": self._reward.name, "parts": {part.name: part.weight for part in self._reward.parts}}
        self._run.finish(self._stage, summary | {"scale": dataclasses.asdict(self._scale)})

    def _sample(self, prompts: list[list[int]], iteration: int, purpose: str) -> tuple[Responses, dict[str, Tensor]]:
        """Responses of the policy to this rank's share of some prompts, and what each part of the reward gives them.

        A rank without a share computes the first row; `dist.gathered` leaves it out.
        """
        settings, seed = self._settings, self._run.config.seed
        rows = dist.rows(len(prompts)) or range(1)
        lengths = settings.min_new_tokens, settings.max_new_tokens
        noise = rng.uniforms(rows, lengths[1], seed, self._stage, iteration, purpose, lengths[0])

        def call() -> tuple[Responses, dict[str, Tensor]]:
            some = [prompts[row] for row in rows]
            responses = generate(self._models.policy, some, noise, self._models.tokenizer, settings.temperature)
            return responses, self._reward.measured(responses)

        return dist.together(call)
