"""Tables of notebook 3."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from plaudit.algorithms.ppo import PPOBatch
from plaudit.evaluation.report.words import MEASURES, bracketed, interval, written
from plaudit.lesson.predictions import visible_tokens
from plaudit.lesson.tables import Html, coloured_text, table
from plaudit.models.tokenizer import Tokenizer


def memory_table(policy: nn.Module, others: Mapping[str, nn.Module]) -> Html:
    """Thousands of parameters in each part of the models: all, trained by PPO, and in the policy's own memory."""
    parts = {name: parameters_by_part(model) for name, model in {"policy": policy, **others}.items()}
    own = {p.data_ptr() for p in policy.parameters()}
    rows = list(dict.fromkeys(row for by_part in parts.values() for row in by_part))
    columns: dict[str, Any] = {"part": rows}
    for name, by_part in parts.items():
        found = [by_part.get(row, []) for row in rows]
        columns[name] = [_thousands(ps) for ps in found]
        if name == "policy":
            columns["policy, trained"] = [_thousands(p for p in ps if p.requires_grad) for ps in found]
        else:
            columns[f"{name}, shared"] = [_thousands(p for p in ps if p.data_ptr() in own) for ps in found]
    return table(columns, digits=1, caption="Thousands of parameters")


def parameters_by_part(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """A model's parameters by part, in the order of the forward pass."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if layer := re.search(r"\.(\d+)\.", name):
            part = f"layer {int(layer.group(1)) + 1}"
        elif "value_head." in name:
            part = "value head"
        elif "score." in name:
            part = "reward head"
        else:
            part = "final norm" if re.search(r"(ln_f|norm)\.", name) else "embeddings"
        parts.setdefault(part, []).append(parameter)
    return parts


def _thousands(parameters: Iterable[nn.Parameter]) -> float:
    return sum(p.numel() for p in parameters) / 1000 or float("nan")


def rollout_table(tokenizer: Tokenizer, batch: PPOBatch, row: int) -> Html:
    """One response of a rollout: its text coloured by advantage, and a table with the numbers of each token."""
    rollout, mask = batch.rollout, batch.rollout.responses.response_mask[row]
    prompt, ids = rollout.responses.prompts()[row], rollout.responses.tokens()[row]
    columns = {
        "log p, policy": rollout.logprobs,
        "log p, reference": rollout.ref_logprobs,
        "KL, sampled": rollout.logprobs - rollout.ref_logprobs,
        "KL, exact": rollout.kl,
        "reward": batch.rewards,
        "value": batch.values,
        "return": batch.returns,
        "advantage": batch.advantages,
    }
    numbers = {name: values[row][mask] for name, values in columns.items()}
    pieces = [tokenizer.hf.decode([i]) for i in ids]
    text = coloured_text(pieces, numbers["advantage"].tolist(), prompt=tokenizer.text(prompt))
    return text + table({"token": visible_tokens(tokenizer, ids), **numbers}, coloured=list(numbers)[2:])


def before_after(samples: Sequence[Mapping[str, Any]]) -> Html:
    """Responses of SFT model and policy to the same prompts, with their scores, from the lines of samples.jsonl."""
    columns = {
        "prompt": [line["prompt"] for line in samples],
        "SFT": [line["sft"].strip() for line in samples],
        "score of SFT": [float(line["sft_score"]) for line in samples],
        "PPO": [line["policy"].strip() for line in samples],
        "score of PPO": [float(line["policy_score"]) for line in samples],
    }
    return table(columns, coloured={"score of SFT": 1.0, "score of PPO": 1.0})


def metrics_table(models: Mapping[str, Mapping[str, Any]]) -> Html:
    """The metrics of some entries of evaluation.json, one column for each model."""
    columns = {"metric": [measure.name for measure in MEASURES]}
    for name, metrics in models.items():
        ends = bracketed(interval(dict(metrics), "score_ci95"))
        columns[name] = [
            f"{written(metrics[m.key], m.form)} {ends if m.key == 'score_mean' else ''}".strip() for m in MEASURES
        ]
    return table({**columns, "meaning": [measure.about for measure in MEASURES]})


def difference_table(evaluation: Mapping[str, Mapping[str, Any]]) -> Html:
    """Policy minus SFT on the same prompts, with paired 95% intervals, from evaluation.json."""
    rows = []
    for name, key, ends, scale, form in (
        ("score", "score_mean", "score_difference_ci95", 1, "{:+.2f}"),
        ("judged positive (percentage points)", "judge_positive", "judge_difference_ci95", 100, "{:+.0f}"),
    ):
        low, high = (scale * end for end in evaluation["meta"][ends])
        difference = scale * (evaluation["policy"][key] - evaluation["sft"][key])
        rows.append((name, written(difference, form), bracketed((low, high), form)))
    return table(dict(zip(("metric", "PPO − SFT", "95% interval"), zip(*rows, strict=True), strict=True)))
