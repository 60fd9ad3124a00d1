"""SFT and policy side by side: the same held-out prompts, the same random numbers, and an independent judge."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from plaudit import rng
from plaudit.config import ALGORITHMS, POLICIES
from plaudit.data.corpus import BUILT_IN
from plaudit.errors import DataError, RunError
from plaudit.evaluation.answers import Answers, figures, joined, side_by_side
from plaudit.evaluation.diagnosis import diagnose
from plaudit.evaluation.judge import Judge, judge_for
from plaudit.evaluation.metrics import bootstrap_ci95, strict
from plaudit.evaluation.report import write_report
from plaudit.files import write_atomic, write_json
from plaudit.maths.masked import unflatten
from plaudit.models.chat import without_refused
from plaudit.models.loading import window
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Message, asking
from plaudit.rewards import AnyReward
from plaudit.settings import setting
from plaudit.training import dist, lock, manifest
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.prompts import check_window, evaluation_prompts, rows_that_fit
from plaudit.training.rewards import as_reward, needs_reward_model
from plaudit.training.rollouts import generate
from plaudit.training.run import Run

NEEDS = ("sft", *POLICIES)  # and of these the first that has finished; see `policy_stage`
SHOWN_PROMPTS = (
    "the film is",
    "this movie",
    "the story",
    "the acting is",
    "it's a",
    "the director has",
    "what we get is",
    "a comedy that",
)


@dataclass(frozen=True)
class Config:
    """SFT model and policy on the same held-out prompts, with the same random numbers."""

    prompts: int = setting(256, "held-out prompts to answer; more give narrower intervals", unit="prompts", low=2)
    batch_size: int = setting(128, "prompts answered at once; lower it when memory runs out", unit="prompts", low=1)
    judge: str = setting(
        "auto",
        "independent judge of the responses: film reads film reviews; auto is film where it fits the data, otherwise "
        "one fitted on labels or comparisons that the reward model never saw; none; a function (FILE.py:NAME); or a "
        "classifier (FOLDER or FOLDER:LABEL)",
        short="judge",
    )


class Measurement:
    """The models, the reward and the held-out prompts by which policies of a run are measured.

    Args:
        stage: the algorithm whose settings decide how responses are sampled.
        reward: as in `ppo`.
        policy: the folder of the policy, if it is not that of the algorithm.
        seeds: of other runs on this data, whose training prompts are not among the held-out ones either.
    """

    def __init__(
        self, run: Run, stage: str, reward: AnyReward = None, policy: str = "", seeds: Iterable[int] = ()
    ) -> None:
        self.run, self.stage, self._seeds = run, stage, tuple(seeds)
        self.models = Models.load(run, stage, stage=policy or stage, reward_model=needs_reward_model(run, reward))
        self.settings = getattr(run.config, stage)  # temperature, response length and reward are those of training
        self.reward = as_reward(run, reward, self.models, self.settings.lower_bound)
        self.tokenizer = self.models.tokenizer
        self.sft, self.policy = self.models.reference, self.models.policy.lm

    def answer(self, lm: Any, prompts: list[list[int]], noise: torch.Tensor) -> Answers:
        """Sample a response of `lm` to each prompt from `noise` (N, R), and measure it; each rank answers a share."""
        if dist.size() == 1:
            return self._answer(lm, prompts, noise)
        share = dist.rows(len(prompts))
        rows = share or range(1)  # a rank without a share answers one prompt, which is left out
        some = [prompts[row] for row in rows]
        found = dist.together(lambda: self._answer(lm, some, noise[rows.start : rows.stop]))
        return joined([each for each in dist.gather(found if share else None) if each is not None])

    @torch.no_grad()
    def _answer(self, lm: Any, prompts: list[list[int]], noise: torch.Tensor) -> Answers:
        engine, temperature, tokenizer = self.models.engine, self.settings.temperature, self.tokenizer
        responses = generate(Policy(lm, engine, value_head=False), prompts, noise, tokenizer, temperature)
        found, tokens = engine.compare(lm, self.sft, responses, temperature), responses.tokens()
        measured = self.reward.measured(responses)
        raw = self.reward.total(measured)
        return Answers(
            texts=[tokenizer.continuation(p, t) for p, t in zip(prompts, tokens, strict=True)],
            tokens=tokens,
            raw_scores=raw.cpu().double().numpy(),
            scores=self.reward.shown(raw.cpu().double()).numpy(),
            ended=responses.ended.cpu().numpy(),
            kl=unflatten(found.kl, responses.response_mask).sum(1).cpu().numpy(),
            nats_ref=-unflatten(found.ref_logprobs, responses.response_mask).sum(1).cpu().numpy(),
            parts={name: values.double().cpu().numpy() for name, values in measured.items()},
        )

    def compare(self, prompts: list[list[int]], noise: torch.Tensor) -> tuple[Answers, Answers]:
        """Answers of SFT and of the policy, drawn with the same noise."""
        return self.answer(self.sft, prompts, noise), self.answer(self.policy, prompts, noise)

    @cached_property
    def held_out(self) -> tuple[list[str], list[list[int]]]:
        """The evaluation's prompts, as texts and as token ids."""
        found = prompts_for(self.run, self.tokenizer, self.settings.max_new_tokens, window(self.sft), self._seeds)
        return found[0], found[1]

    @cached_property
    def judge(self) -> tuple[Judge | None, str]:
        """The judge; None and the reason where none fits the data."""
        config = self.run.config
        return judge_for(self.run.data, config.evaluation.judge, config.reward_timeout)

    def batches(
        self, stage: str = "evaluation", iteration: int = 0, purpose: str = "responses"
    ) -> Iterator[tuple[list[list[int]], torch.Tensor]]:
        """The held-out prompts, as many as are answered at once, with random numbers drawn for this purpose."""
        prompts, size = self.held_out[1], self.run.config.evaluation.batch_size
        for start in range(0, len(prompts), size):
            rows = range(start, min(start + size, len(prompts)))
            yield prompts[start : start + size], self.noise(rows, stage, iteration, purpose)

    @property
    def steps(self) -> int:
        """Steps of an evaluation: the batches, and one more for its figures."""
        return -(-len(self.held_out[1]) // self.run.config.evaluation.batch_size) + 1

    def reports(self) -> Generator[StepReport, None, tuple[Answers, Answers, float]]:
        """Answer the held-out prompts, one report a batch; returns the answers of SFT and policy, and the seconds."""
        parts: list[tuple[Answers, Answers]] = []
        seconds, began = 0.0, time.perf_counter()
        for prompts, noise in self.batches():
            before, after = self.compare(prompts, noise)
            parts.append((before, after))
            scores = {"sft_score": float(before.scores.mean()), "policy_score": float(after.scores.mean())}
            tokens, took = sum(map(len, before.tokens + after.tokens)), time.perf_counter() - began
            seconds += took
            timing = {"seconds": took, "tokens_per_second": tokens / took}
            yield StepReport("evaluation", len(parts), self.steps, scores, timing)
            began = time.perf_counter()
        sft, policy = (joined(side) for side in zip(*parts, strict=True))
        return sft, policy, seconds

    def noise(self, rows: range, stage: str, iteration: int, purpose: str) -> torch.Tensor:
        """Random numbers for responses as long as those in training."""
        limit, seed = self.settings.max_new_tokens, self.run.config.seed
        return rng.uniforms(rows, limit, seed, stage, iteration, purpose, self.settings.min_new_tokens)


def prompts_for(
    run: Run, tokenizer: Tokenizer, max_new_tokens: int, limit: int, seeds: Iterable[int] = ()
) -> tuple[list[str], list[list[int]], str]:
    """The evaluation's prompts, as texts and as token ids, and a line if many do not fit into a window of `limit`.

    `seeds` are as in `evaluation_prompts`.

    Raises:
        DataError: there are fewer than two, or half of them do not fit.
        ModelError: none fits.
    """
    found, _ = without_refused(evaluation_prompts(run, tokenizer, seeds), lambda text: (text, tokenizer.prompt(text)))
    texts, prompts = [text for text, _ in found], [ids for _, ids in found]
    rows, warning = rows_that_fit(prompts, max_new_tokens, limit, "held-out prompts") if prompts else ([], "")
    if len(rows) < 2:
        raise DataError(
            f"{run.data.name}: the evaluation needs at least 2 held-out prompts, and the data gives {len(rows)}; add "
            "records with other prompts, or lower prompt_min"
        )
    rows = rows[: run.config.evaluation.prompts]
    return [asking(texts[i]) for i in rows], [prompts[i] for i in rows], warning


def policy_stage(run: Run) -> str:
    """The stage whose policy the run is about: PPO, or another that has finished. Raises a RunError if none has."""
    for stage in POLICIES:
        if run.complete(stage):
            return stage
    raise RunError(f"{run.path}: no finished policy here; run: plaudit ppo --out {run.path}")


def evaluate(run: Run, reward: AnyReward = None) -> Iterator[StepReport]:
    """Measure SFT and policy, one report a batch; leaves evaluation.json, samples.jsonl and report.html.

    Args:
        reward: as in `ppo`.

    Raises:
        DataError: the evaluation split gives fewer than two prompts.
        ModelError: a prompt and its response do not fit into the model's window.
    """
    config = run.config
    measurement = Measurement(run, policy_stage(run), reward)
    texts, ids = measurement.held_out
    sft, policy, seconds = yield from measurement.reports()
    began = time.perf_counter()
    sft_judge, policy_judge, judge, no_judge = dist.on_main(lambda: _judged(measurement, sft, policy))
    responses = side_by_side(texts, sft, policy)
    difference = None
    if sft_judge is not None and policy_judge is not None:
        for line, *verdicts in zip(responses, sft_judge, policy_judge, strict=True):
            line["sft_judge"], line["policy_judge"] = map(float, verdicts)
        difference = bootstrap_ci95((policy_judge > 0.5) - (sft_judge > 0.5).astype(float), config.seed)
    _write_jsonl(run.path / "responses.jsonl", responses)
    show, shown = texts[: len(SHOWN_PROMPTS)], ids[: len(SHOWN_PROMPTS)]
    if config.data.name in BUILT_IN:
        show, shown = list(SHOWN_PROMPTS), [measurement.tokenizer.prompt(prompt) for prompt in SHOWN_PROMPTS]
    noise = measurement.noise(range(len(shown)), "evaluation", 0, "samples")
    _write_jsonl(run.path / "samples.jsonl", side_by_side(show, *measurement.compare(shown, noise)))
    took = time.perf_counter() - began
    sft_figures, policy_figures = figures(sft, sft_judge, config.seed), figures(policy, policy_judge, config.seed)
    meta = {
        "prompts": len(texts),
        "seed": config.seed,
        "model": config.model,
        "data": config.data.name,
        "device": str(run.device),
        "dtype": str(run.dtype).removeprefix("torch."),
        "reward": measurement.reward.name,
        "score_range": measurement.reward.score_range,
        "lower_bound": measurement.settings.lower_bound,
        "judge": judge,
        "no_judge": no_judge,
        "score_difference_ci95": bootstrap_ci95(policy.scores - sft.scores, config.seed),
        "judge_difference_ci95": difference,
        **dist.on_main(lambda: _of_training(run, seconds + took)),
    }
    content = {"sft": sft_figures, measurement.stage: policy_figures, "policy": policy_figures, "meta": meta}
    write_json(run.path / "evaluation.json", strict(content))
    manifest.write(run.path, [run.path / name for name in ("evaluation.json", "responses.jsonl", "samples.jsonl")])
    dist.on_main(lambda: write_report(run.path))
    lock.wait_for(run.path / "evaluation.json")
    gain = policy_figures["score_mean"] - sft_figures["score_mean"]
    timing = {"seconds": took, "tokens_per_second": 0.0}
    yield StepReport("evaluation", measurement.steps, measurement.steps, {"score_gain": gain}, timing)


def _judged(measurement: Measurement, sft: Answers, policy: Answers) -> tuple[Any, Any, dict[str, Any] | None, str]:
    """The judge's verdicts on the answers of both models, and what evaluation.json says about it, or why there is none.

    It reads the responses alone: the sentiment of a prompt is not the model's merit.
    """
    judge, no_judge = measurement.judge
    if judge is None:
        return None, None, None, no_judge
    first, second = (judge.positive(answers.texts, measurement.held_out[0]) for answers in (sft, policy))
    return first, second, judge.meta, no_judge


def _of_training(run: Run, seconds: float) -> dict[str, Any]:
    """What evaluation.json says about the stages, the evaluation with its seconds among them."""
    took = {stage: run.log(stage).seconds() for stage in ALGORITHMS if run.complete(stage)}
    return {
        "wall_seconds": took | {"evaluation": seconds},
        "warnings": [finding.sentence for finding in diagnose(run.path)],
    }


def sample(
    directory: str | Path,
    prompt: str,
    n: int = 4,
    seed: int = 1,
    max_new_tokens: int | None = None,
    reward: AnyReward = None,
) -> list[dict[str, Any]]:
    """`n` continuations of `prompt` by each model of a run, from the same random numbers, as samples.jsonl has them.

    The models of a run on dialogues answer it as a user's message. Lines have prompt, sft, policy and their scores.

    Args:
        max_new_tokens: longest response, in tokens; None for max_new_tokens of the policy's training. No shorter limits
            are drawn, even where training drew them (min_new_tokens): a response is read whole.

    Raises:
        RunError: the run does not exist or has not finished.
        ModelError: the prompt leaves no room for a response.
    """
    run = Run.existing(Path(directory))
    measurement = Measurement(run, policy_stage(run), reward)
    text = (Message("user", prompt),) if run.summary("sft").get("chat", False) else prompt
    ids = measurement.tokenizer.prompt(text)
    limit = max_new_tokens or measurement.settings.max_new_tokens
    check_window([ids], limit, window(measurement.sft))
    noise = rng.uniforms(range(n), limit, seed, "sample", 0, prompt)
    return side_by_side([prompt] * n, *measurement.compare([ids] * n, noise))


def _write_jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(strict(line), allow_nan=False) + "\n" for line in lines))
