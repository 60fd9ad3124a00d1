"""SFT and policy side by side: the same held-out prompts, the same random numbers, a judge of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plaudit import rng
from plaudit.algorithms.actors import Actors
from plaudit.algorithms.ppo import check_window
from plaudit.algorithms.rollout import compare, respond, score_responses
from plaudit.config import setting
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts, held_out_prompts
from plaudit.data.text import distinct
from plaudit.errors import DataError
from plaudit.evaluation.hacking import hacking_signs, windows_of
from plaudit.evaluation.judge import Judge, imdb_judge
from plaudit.evaluation.metrics import bootstrap_ci95, duplicate_rate
from plaudit.evaluation.report import write_report
from plaudit.maths.masked import spread
from plaudit.models.heads import response_states
from plaudit.models.loading import window
from plaudit.models.tokenizer import Tokenizer
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run, write_json

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


@dataclass(frozen=True)
class Answered:
    """One model's answers to a list of prompts, in order.

    Attributes:
        texts: the responses, without their prompts.
        tokens: their ids, end token included.
        logits: (N,) of the reward model.
        ended: (N,) whether the response ended by itself.
        kl: (N,) nats against SFT, summed over the response.
        nats_ref: (N,) negative log likelihood of the response under SFT.
    """

    texts: list[str]
    tokens: list[list[int]]
    logits: np.ndarray
    ended: np.ndarray
    kl: np.ndarray
    nats_ref: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """(N,) 2 sigmoid(logit) - 1, in [-1, 1]."""
        return 2 / (1 + np.exp(-self.logits.astype(np.float64))) - 1


class Models:
    """The models that an evaluation or a sample needs, loaded once from a run directory."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.actors = Actors.load(run, "ppo")
        self.tokenizer: Tokenizer = self.actors.tokenizer
        self.sft, self.policy = self.actors.reference, self.actors.policy.lm

    @torch.no_grad()
    def answer(self, lm: Any, prompts: list[list[int]], noise: torch.Tensor) -> Answered:
        """Sample a response of `lm` to each prompt from `noise` (N, R), and measure it.

        Args:
            lm: SFT, the policy, or another that has their frozen blocks.
        """
        temperature, actors = self.run.config.ppo.temperature, self.actors
        responses = respond(lm, prompts, noise, self.tokenizer, temperature, self.run, *actors.depths)
        mask = responses.response_mask
        batch = (responses.ids, responses.attention_mask, mask, responses.below)
        with self.run.autocast():
            states, ref_states = response_states(lm, *batch), response_states(self.sft, *batch)
        said = compare(lm, states, self.sft, ref_states, responses.response_ids[mask], temperature)
        kl, nats = spread(said[2], mask).sum(1), -spread(said[1], mask).sum(1)
        logits = score_responses(actors.reward_model, responses, self.run)
        lengths = mask.sum(1).tolist()
        tokens = [row[:k] for row, k in zip(responses.response_ids.tolist(), lengths, strict=True)]
        return Answered(
            texts=[self.tokenizer.continuation(p, t) for p, t in zip(prompts, tokens, strict=True)],
            tokens=tokens,
            logits=logits.cpu().numpy(),
            ended=responses.ended.cpu().numpy(),
            kl=kl.cpu().numpy(),
            nats_ref=nats.cpu().numpy(),
        )

    def compare(self, prompts: list[list[int]], noise: torch.Tensor) -> tuple[Answered, Answered]:
        """Answers of SFT and of the policy, drawn with the same noise."""
        return self.answer(self.sft, prompts, noise), self.answer(self.policy, prompts, noise)


def evaluate(config: Any, run: Run) -> Iterator[StepReport]:
    """Measure SFT and policy, one report a batch; leaves evaluation.json, samples.jsonl and report.html.

    Raises:
        DataError: the evaluation split gives fewer than two prompts.
        ModelError: a prompt and its response do not fit into the model's window.
    """
    settings, cap = config.evaluation, config.ppo.max_new_tokens
    models = Models(run)
    texts, prompts = held_out(config, models)
    total = -(-len(prompts) // settings.batch_size) + 1
    sft_parts, policy_parts = [], []
    seconds = 0.0
    for step in range(total - 1):
        began = time.perf_counter()
        rows = range(step * settings.batch_size, min((step + 1) * settings.batch_size, len(prompts)))
        noise = rng.uniforms(rows, cap, config.seed, "evaluation", 0, "responses")
        before, after = models.compare([prompts[i] for i in rows], noise)
        sft_parts.append(before)
        policy_parts.append(after)
        took = time.perf_counter() - began
        seconds += took
        scores = {"sft_score": float(before.scores.mean()), "policy_score": float(after.scores.mean())}
        tokens = sum(map(len, before.tokens)) + sum(map(len, after.tokens))
        yield StepReport("evaluation", step + 1, total, scores, {"seconds": took, "tokens_per_second": tokens / took})

    began = time.perf_counter()
    judge = imdb_judge()
    sft, policy = joined(sft_parts), joined(policy_parts)
    # Responses alone: a cheerful prompt is nobody's merit.
    verdicts = {name: judge.positive(answers.texts) for name, answers in (("sft", sft), ("policy", policy))}
    responses = _side_by_side(texts, sft, policy)
    for i, line in enumerate(responses):
        line |= {f"{who}_judge": float(verdicts[who][i]) for who in ("sft", "policy")}
    _write_jsonl(run.path / "responses.jsonl", responses)
    _write_jsonl(run.path / "samples.jsonl", _shown_samples(models, config))
    took = time.perf_counter() - began
    walls = {stage: run.log(stage).seconds() for stage in ("sft", "reward_model", "ppo")}
    figures_of = {
        name: figures(answers, verdicts[name], config.seed) for name, answers in (("sft", sft), ("policy", policy))
    }
    meta = {
        "prompts": len(prompts),
        "seed": config.seed,
        "model": config.model,
        "data": config.data,
        "device": str(run.device),
        "dtype": str(run.dtype).removeprefix("torch."),
        "judge": {"accuracy_imdb": judge.accuracy_imdb} | _task_accuracy(judge, load(config.data).evaluation.labelled),
        "score_difference_ci95": bootstrap_ci95(policy.scores - sft.scores, config.seed),
        "judge_difference_ci95": bootstrap_ci95(
            (verdicts["policy"] > 0.5) - (verdicts["sft"] > 0.5).astype(float), config.seed
        ),
        "wall_seconds": walls | {"evaluation": seconds + took},
        "warnings": [sign.text for sign in hacking_signs(windows_of(run))],
    }
    write_json(run.path / "evaluation.json", {**figures_of, "meta": meta})
    write_report(run.path)
    gain = figures_of["policy"]["score_mean"] - figures_of["sft"]["score_mean"]
    yield StepReport("evaluation", total, total, {"score_gain": gain}, {"seconds": took, "tokens_per_second": 0.0})


def held_out(config: Any, models: Models) -> tuple[list[str], list[list[int]]]:
    """The evaluation's prompts, as texts and as ids.

    Raises:
        DataError: the evaluation split gives fewer than two prompts.
        ModelError: a prompt and its response do not fit into the model's window.
    """
    data, cut = load(config.data), (config.prompt_min, config.prompt_max, config.seed)
    texts = held_out_prompts(data.evaluation, *cut, seen=cut_prompts(data.prompts, *cut))[: config.evaluation.prompts]
    if len(texts) < 2:
        raise DataError(f"the evaluation split gives {len(texts)} prompts; give more data, or lower prompt_min")
    prompts = [models.tokenizer.prompt(t) for t in texts]
    check_window(prompts, config.ppo.max_new_tokens, window(models.sft))
    return texts, prompts


def figures(a: Answered, verdicts: np.ndarray, seed: int) -> dict[str, Any]:
    """One model's entry in evaluation.json.

    Args:
        verdicts: (N,) the judge's probability that the response is positive.

    Returns:
        score_mean and its bootstrap interval, in [-1, 1]; judge_positive, a share; kl_mean, nats a response;
        perplexity_ref of the responses under SFT at the sampling temperature; distinct_1 and distinct_2, shares
        of token n-grams; length_mean, tokens; eos_rate and duplicate_rate, shares of responses.
    """
    lengths = np.array([len(t) for t in a.tokens])
    return {
        "score_mean": float(a.scores.mean()),
        "score_ci95": bootstrap_ci95(a.scores, seed),
        "judge_positive": float((verdicts > 0.5).mean()),
        "kl_mean": float(a.kl.mean()),
        "perplexity_ref": float(np.exp(a.nats_ref.sum() / lengths.sum())),
        "distinct_1": distinct(a.tokens, 1),
        "distinct_2": distinct(a.tokens, 2),
        "length_mean": float(lengths.mean()),
        "eos_rate": float(a.ended.mean()),
        "duplicate_rate": duplicate_rate(a.texts),
    }


def joined(parts: list[Answered]) -> Answered:
    """The answers of several batches as one."""
    return Answered(
        texts=[t for p in parts for t in p.texts],
        tokens=[t for p in parts for t in p.tokens],
        **{k: np.concatenate([getattr(p, k) for p in parts]) for k in ("logits", "ended", "kl", "nats_ref")},
    )


def _task_accuracy(judge: Judge, labelled: Any) -> dict[str, float]:
    return {"accuracy_task": judge.accuracy(labelled)} if labelled else {}


def _side_by_side(prompts: Sequence[str], sft: Answered, policy: Answered) -> list[dict[str, Any]]:
    """One line a prompt, as samples.jsonl has it."""
    return [
        {
            "prompt": prompt,
            "sft": sft.texts[i],
            "policy": policy.texts[i],
            "sft_score": float(sft.scores[i]),
            "policy_score": float(policy.scores[i]),
        }
        for i, prompt in enumerate(prompts)
    ]


def _shown_samples(models: Models, config: Any) -> list[dict[str, Any]]:
    prompts = [models.tokenizer.prompt(p) for p in SHOWN_PROMPTS]
    noise = rng.uniforms(range(len(prompts)), config.ppo.max_new_tokens, config.seed, "evaluation", 0, "samples")
    return _side_by_side(SHOWN_PROMPTS, *models.compare(prompts, noise))


def _write_jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
