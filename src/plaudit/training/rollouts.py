"""The rollout loop that algorithms share: sample responses, score them, update on minibatches, log and save."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor

from plaudit import rng
from plaudit.batches import Responses, Rollout, split_rows
from plaudit.data.prompts import cut_prompts
from plaudit.data.text import distinct
from plaudit.errors import DataError, ModelError
from plaudit.maths.kl import adapt_kl_coef
from plaudit.maths.masked import masked_mean, unflatten
from plaudit.models.loading import load_causal_lm, save, window
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Tokenizer, pad_left
from plaudit.rewards import FunctionReward, ModelReward, Reward, TextReward
from plaudit.training.metrics import StepReport
from plaudit.training.models import VALUE_HEAD, Models
from plaudit.training.optimizer import BatchLoss, accumulate, set_lr, step, warmup_then_linear
from plaudit.training.run import Run

REFERENCE_SAMPLES = 256  # responses of the reference on which scores are normalised


@dataclass(frozen=True)
class ScoreScale:
    """How training uses a raw score.

    Raw scores are shifted and scaled to mean 0 and standard deviation 1 on responses of the reference, so that kl_coef
    and the value head mean the same for any reward.

    Attributes:
        mean, std: of the raw scores of reference responses.
        missing_eos: score of a response that the length limit cut off.
    """

    mean: float
    std: float
    missing_eos: float

    @staticmethod
    def measured(raw: Float[Tensor, "B"], missing_eos: float) -> "ScoreScale":
        """The scale at which these raw scores of reference responses have mean 0 and standard deviation 1."""
        return ScoreScale(raw.mean().item(), max(raw.std().item(), 1e-6), missing_eos)

    def scores(self, raw: Float[Tensor, "B"], ended: Bool[Tensor, "B"]) -> Float[Tensor, "B"]:
        """(B,) normalised scores."""
        return ((raw - self.mean) / self.std).masked_fill(~ended, self.missing_eos)


def as_reward(reward: TextReward | None, models: Models) -> Reward:
    """A function of texts as a reward; the run's reward model where there is no function."""
    return ModelReward(models.reward_model) if reward is None else FunctionReward(reward, models.tokenizer)


def generate(
    policy: Policy, prompts: list[list[int]], noise: Float[Tensor, "B R"], tokenizer: Tokenizer, temperature: float
) -> Responses:
    """Sample one response to each prompt.

    Args:
        prompts: token ids.
        noise: (B, R) random numbers in [0, 1) that decide every draw; R limits the response length.
    """
    device = next(policy.parameters()).device
    ids, mask = pad_left(prompts, tokenizer.pad_id)
    ids, mask, noise = ids.to(device), mask.to(device), noise.to(device)
    return policy.engine.generate(policy.lm, ids, mask, noise, tokenizer.eos_id, tokenizer.pad_id, temperature)


def score_rollout(
    policy: Policy, reference: Any, responses: Responses, raw: Float[Tensor, "B"], scale: ScoreScale, temperature: float
) -> tuple[Rollout, Float[Tensor, "N D"]]:
    """What policy and reference say about the responses, in one pass each and without gradients.

    Args:
        raw: (B,) raw scores.

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
        raw_scores=raw,
        scores=scale.scores(raw, responses.ended),
    )
    return rollout, found.states


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    loss: BatchLoss,
    count: Callable[[Any], int],
    settings: Any,
    orders: list[np.ndarray],
    where: str,
    stop: Callable[[dict[str, float]], bool] = lambda figures: False,
) -> dict[str, float]:
    """Optimizer steps on minibatches of a batch.

    Args:
        loss, count: as in `optimizer.accumulate`.
        settings: with `minibatch_size`, `microbatch_size` and `max_grad_norm`.
        orders: for each epoch, the order of the batch's rows.
        where: for error messages.
        stop: ends the update before the step whose figures it rejects; the first step is always taken.

    Returns:
        means of the figures over the optimizer steps (maxima where their name ends in `_max`), and `optimizer_steps`.
    """
    history: list[dict[str, float]] = []
    for order in orders:
        for minibatch in split_rows(batch, order, settings.minibatch_size):
            figures = accumulate(minibatch, settings.microbatch_size, loss, count(minibatch), where)
            if history and stop(figures):
                optimizer.zero_grad(set_to_none=True)
                return _summary(history)
            history.append(figures | {"grad_norm": step(optimizer, policy, settings.max_grad_norm, where)})
    return _summary(history)


def _summary(history: list[dict[str, float]]) -> dict[str, float]:
    columns = {name: [figures[name] for figures in history] for name in history[0]}
    means = {name: max(v) if name.endswith("_max") else float(np.mean(v)) for name, v in columns.items()}
    return means | {"optimizer_steps": len(history)}


@dataclass(frozen=True)
class Iteration:
    """One iteration of a rollout loop, before its update.

    Attributes:
        number: counted from 0.
        rollout: the scored responses.
        states: (N, D) the policy's hidden states that predict the response tokens.
        kl_coef, lr: KL penalty and learning rate of this iteration.
        began: when it began, by time.perf_counter().
    """

    number: int
    rollout: Rollout
    states: Tensor
    kl_coef: float
    lr: float
    began: float


class RolloutLoop:
    """Iterations of sampling and scoring, resumed from the newest checkpoint if there is one.

    Args:
        run: the run directory.
        stage: the algorithm, whose settings are a `RolloutConfig`.
        models: with the policy that learns.
        reward: what the responses are scored by.
        optimizer: of the policy.
    Attributes:
        initial: responses of the reference with their normalised scores (B,); None when training was resumed.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        models: Models,
        reward: Reward,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._run, self._stage, self._models, self._reward, self._optimizer = run, stage, models, reward, optimizer
        self._settings = getattr(run.config, stage)
        self._prompts = tokenised_prompts(run, models.tokenizer)
        check_window(self._prompts, self._settings.max_new_tokens, window(models.policy.lm))
        if isinstance(reward, ModelReward):
            self._checkpoints = run.checkpoints(stage)
        else:
            self._checkpoints = run.checkpoints(stage, needs=("sft",), reward=reward.name)
        self._log = run.log(stage)
        state = self._checkpoints.restore(models.policy, optimizer)
        self._first = state["step"]
        self._log.truncate(self._first)
        self.initial: tuple[Responses, Tensor] | None = None
        if self._first:
            self._scale, self._kl_coef = ScoreScale(**state["scale"]), state["kl_coef"]
            return
        some = [self._prompts[i % len(self._prompts)] for i in range(REFERENCE_SAMPLES)]
        responses, raw = self._sample(some, 0, "reference")
        self._scale = ScoreScale.measured(raw, self._settings.missing_eos_score)
        self._kl_coef = self._settings.kl_coef
        self.initial = responses, self._scale.scores(raw, responses.ended)

    def __iter__(self) -> Iterator[Iteration]:
        """Sample, score and hand out the iterations that remain; each must be finished before the next is asked for."""
        for number in range(self._first, self._settings.iterations):
            began = time.perf_counter()
            prompts = prompts_of(number, self._prompts, self._settings.batch_size, self._run.config.seed)
            responses, raw = self._sample(prompts, number, "responses")
            policy, reference = self._models.policy, self._models.reference
            rollout, states = score_rollout(policy, reference, responses, raw, self._scale, self._settings.temperature)
            lr = self._settings.lr * warmup_then_linear(number, self._settings.iterations, self._settings.warmup)
            set_lr(self._optimizer, lr)
            yield Iteration(number, rollout, states, self._kl_coef, lr, began)

    def finish_iteration(self, iteration: Iteration, figures: dict[str, float]) -> StepReport:
        """Log an iteration, with `figures` of its update, and save a checkpoint where one is due."""
        settings, rollout, responses = self._settings, iteration.rollout, iteration.rollout.responses
        mask, mean_kl = responses.response_mask, rollout.kl.sum(1).mean().item()
        shown, tokens = self._reward.shown(rollout.raw_scores), responses.tokens()
        metrics = {
            "score": shown.mean().item(),
            "score_std": shown.std().item(),
            "score_normalised": rollout.scores.mean().item(),
            "kl": mean_kl,
            "kl_k1": (rollout.logprobs - rollout.ref_logprobs).sum(1).mean().item(),
            "entropy": masked_mean(rollout.entropy, mask).item(),
            **figures,
            "response_length": mask.sum(1).float().mean().item(),
            "eos_rate": responses.ended.float().mean().item(),
            "distinct_2": distinct(tokens, 2),
            "perplexity_ref": masked_mean(-rollout.ref_logprobs, mask).exp().item(),
            "lr": iteration.lr,
            "kl_coef": iteration.kl_coef,
        }
        if settings.kl_control == "adaptive":
            n = len(tokens)
            self._kl_coef = adapt_kl_coef(self._kl_coef, mean_kl, settings.kl_target, n, settings.kl_horizon)
        seconds = time.perf_counter() - iteration.began
        timing = {"seconds": seconds, "tokens_per_second": mask.sum().item() / seconds}
        tokenizer, prompts = self._models.tokenizer, responses.prompts()
        texts = [tokenizer.continuation(p, t) for p, t in zip(prompts, tokens, strict=True)]
        number = iteration.number + 1
        sample = (tokenizer.text(prompts[0]), texts[0])
        report = StepReport(self._stage, number, settings.iterations, metrics, timing, sample=sample)
        self._log.append(report)
        self._log.log_responses(
            number,
            texts,
            prompts=[tokenizer.text(prompt) for prompt in prompts],
            scores=shown.tolist(),
            kl=rollout.kl.sum(1).tolist(),
            lengths=[len(t) for t in tokens],
        )
        if number % settings.save_every == 0 or number == settings.iterations:
            state = {"scale": dataclasses.asdict(self._scale), "kl_coef": self._kl_coef}
            self._checkpoints.save(number, self._models.policy, self._optimizer, state)
        return report

    def finish(self) -> None:
        """Save the policy as a plain model folder, with its value head beside it, and mark the stage as complete."""
        models, folder = self._models, self._run.folder(self._stage)
        sft = self._run.model("sft")
        models.engine.restore(models.policy.lm, self._optimizer, lambda: load_causal_lm(sft))
        save(models.policy.lm, models.tokenizer, folder, self._settings)
        if models.policy.value_head is not None:
            save_file(models.policy.value_head.state_dict(), folder / VALUE_HEAD)
        summary = {
            "iterations": self._settings.iterations,
            "prompts": len(self._prompts),
            "reward": self._reward.name,
            "scale": dataclasses.asdict(self._scale),
        }
        self._run.finish(self._stage, summary)

    def _sample(self, prompts: list[list[int]], iteration: int, purpose: str) -> tuple[Responses, Tensor]:
        """Responses of the policy to some prompts, and their raw scores (B,)."""
        settings = self._settings
        rows, seed = range(len(prompts)), self._run.config.seed
        noise = rng.uniforms(rows, settings.max_new_tokens, seed, self._stage, iteration, purpose)
        responses = generate(self._models.policy, prompts, noise, self._models.tokenizer, settings.temperature)
        return responses, self._reward(responses)


def tokenised_prompts(run: Run, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of every prompt to train on.

    Raises:
        DataError: no text is long enough to cut a prompt from.
    """
    config = run.config
    texts = cut_prompts(run.data.prompts, config.prompt_min, config.prompt_max, config.seed)
    if not texts:
        raise DataError(f"no text is long enough for a prompt of {config.prompt_min} words; lower prompt_min")
    return [tokenizer.prompt(text) for text in texts]


def prompts_of(iteration: int, prompts: list[Any], batch_size: int, seed: int) -> list[Any]:
    """The prompts of an iteration: pass after pass over all of them, each pass in its own order."""
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    orders = {
        epoch: rng.permutation(len(prompts), seed, "ppo prompts", epoch)
        for epoch in {p // len(prompts) for p in places}
    }
    return [prompts[orders[p // len(prompts)][p % len(prompts)]] for p in places]


def check_window(prompts: list[list[int]], max_new_tokens: int, limit: int) -> None:
    """Refuse prompts that leave no room for a whole response.

    Raises:
        ModelError: prompt and response together are longer than the model's window.
    """
    longest = max((len(p) for p in prompts), default=0)
    if longest + max_new_tokens > limit:
        raise ModelError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} do not fit into the model's window of "
            f"{limit} tokens; shorten the prompts or lower max_new_tokens"
        )
