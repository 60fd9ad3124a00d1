"""One model's responses to the held-out prompts, and the figures that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

from plaudit.data.text import distinct
from plaudit.evaluation.metrics import bootstrap_ci95, duplicate_rate


@dataclass(frozen=True)
class Answers:
    """One model's responses to a list of prompts, in order."""

    texts: list[str]  # the responses, without their prompts
    tokens: list[list[int]]  # their ids, end token included
    raw_scores: np.ndarray  # (N,) what the reward gives them
    scores: np.ndarray  # (N,) the same as reports show it
    ended: np.ndarray  # (N,) whether the response ended with the end token
    kl: np.ndarray  # (N,) nats from SFT, summed over the response
    nats_ref: np.ndarray  # (N,) negative log-likelihood of the response under SFT
    parts: dict[str, np.ndarray]  # (N,) what each part of the reward gives them, by its name


def figures(answers: Answers, verdicts: np.ndarray | None, seed: int) -> dict[str, Any]:
    """One model's entry in evaluation.json, from its answers and the judge's probabilities (N,) that they are positive.

    Without a judge, `verdicts` are None. kl_mean is in nats a response, length_mean in tokens; perplexity_ref is under
    SFT at the sampling temperature.
    """
    lengths = np.array([len(tokens) for tokens in answers.tokens])
    with np.errstate(over="ignore"):  # of a policy far from SFT
        perplexity = float(np.exp(answers.nats_ref.sum(dtype=np.float64) / lengths.sum()))
    return {
        "score_mean": float(answers.scores.mean()),
        "score_ci95": bootstrap_ci95(answers.scores, seed),
        "judge_positive": None if verdicts is None else float((verdicts > 0.5).mean()),
        "kl_mean": float(answers.kl.mean()),
        "kl_ci95": bootstrap_ci95(answers.kl, seed),
        "perplexity_ref": perplexity,
        "distinct_1": distinct(answers.tokens, 1),
        "distinct_2": distinct(answers.tokens, 2),
        "length_mean": float(lengths.mean()),
        "eos_rate": float(answers.ended.mean()),
        "duplicate_rate": duplicate_rate(answers.texts),
        "parts": {name: float(values.mean()) for name, values in answers.parts.items()},
    }


def joined(batches: Sequence[Answers]) -> Answers:
    """The answers of several batches as one."""
    columns: dict[str, Any] = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(Answers)}
    texts, tokens = (list(chain(*columns.pop(name))) for name in ("texts", "tokens"))
    each = columns.pop("parts")
    of_reward = {name: np.concatenate([values[name] for values in each]) for name in each[0]}
    arrays = {name: np.concatenate(column) for name, column in columns.items()}
    return Answers(texts, tokens, **arrays, parts=of_reward)


def side_by_side(prompts: Sequence[str], sft: Answers, policy: Answers) -> list[dict[str, Any]]:
    """The lines of samples.jsonl: prompt, responses and scores."""
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
