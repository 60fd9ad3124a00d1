"""Preflight checks: what must hold before step 1, checked in seconds with the run's own models, prompts and code."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from plaudit import rng
from plaudit.batches import select_rows
from plaudit.errors import ModelError
from plaudit.evaluation.checks import (
    ENGINE,
    ROWS,
    Check,
    checks_of_reward_model,
    draws_outside,
    objective_of,
    of_reward_model,
    one_step,
    training_of_policy,
    training_of_sft,
)
from plaudit.evaluation.devices import against_cpu, is_compared
from plaudit.evaluation.memory import memory_needed
from plaudit.evaluation.metrics import strict
from plaudit.files import remove_file, write_json
from plaudit.models.loading import load_causal_lm, model_without_weights, window
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.rewards import AnyReward
from plaudit.training import dist, memory
from plaudit.training.engine import choose_engine
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.prompts import training_prompts
from plaudit.training.rewards import as_reward, needs_reward_model, run_sources, try_reward
from plaudit.training.rollouts import ScoreScale, generate, score_rollout
from plaudit.training.run import Run
from plaudit.training.stages import MEMORY_FILE
from plaudit.training.tokenizer import open_tokenizer

# How far the ratio of the same model may be from 1: at the worst of some hundred tokens, and on average. In bfloat16
# the fast engine rounds the matrices that learn: 0.05 and 0.008 (movie-gpt2, all layers). Split otherwise, the same
# weights give the same figures on one CPU thread, in both formats.
_RATIO = {torch.float32: 1e-4, torch.bfloat16: 0.1}
_MEAN_RATIO = {torch.float32: 1e-4, torch.bfloat16: 0.02}
_KL = {torch.float32: 1e-4, torch.bfloat16: 0.02}  # nats per response; bfloat16: 0.004 as above
# Nats for other orders of the same products, at the least likely of some hundred tokens (smollm2: 0.3 in bfloat16).
_ENGINE_NATS = {torch.float32: 1e-3, torch.bfloat16: 1.0}
# Mean distance of a random number from the share of [0, 1) that the scored distribution gives its token.
_OUTSIDE = {torch.float32: 1e-4, torch.bfloat16: 3e-3}
_ENDED = 0.5  # share of responses that should end before the length limit
_TIGHT = 0.8  # share of the free memory
# In bfloat16 oneDNN keeps code for every shape of a product, up to a thousand; measured for movie-gpt2, AVX512-BF16.
_SHAPES = 2**29
_trained_in: set[torch.dtype] = set()  # formats in which this process has trained: it holds that code already


def open_models(run: Run, stage: str, reward: AnyReward = None) -> Models:
    """The models that `stage` starts from: "sft" from the base model, others from the run's SFT and reward model."""
    if stage != "sft":
        value_head = objective_of(stage).value_head
        scored = "reward_model" in run.needs(stage, run_sources(run, reward))
        return Models.load(run, stage, value_head=value_head, reward_model=scored)
    lm = load_causal_lm(run.config.model).to(run.device).eval()
    policy = Policy(lm, choose_engine(run, "sft", lm)).to(run.device)
    policy.engine.prepare(lm)
    return Models(open_tokenizer(run, run.config.model), policy, lm, (), policy.engine)


def doctor(run: Run, stage: str, models: Models | None = None, reward: AnyReward = None) -> list[Check]:
    """Check what `stage` starts from, and one step of its training.

    Args:
        models: those of `open_models`, if they are open already; they are not changed.
        reward: as in `ppo`.

    Returns:
        the preflight checks, each with `ok`, `mark` and `line`: the result, and what to do about it.

    Raises:
        RunError: a stage that this one starts from has not finished.
        ModelError: a model cannot be opened.
    """
    program = memory.held(run.device)
    if stage == "reward_model":
        checks = list(of_reward_model(run, _ENGINE_NATS[run.dtype]))
        needed = memory_needed(run, model_without_weights(run.model("sft")), 0)
        return [*checks, _memory_of_process(run, needed, program)]
    models = models or open_models(run, stage, reward)
    config, settings = run.config, getattr(run.config, _policy(stage))
    texts, _ = training_prompts(run, models.tokenizer)
    limit = min(settings.max_new_tokens, window(models.policy.lm) - 1)
    fitting = (p for p in map(models.tokenizer.prompt, texts) if len(p) + limit <= window(models.policy.lm))
    prompts = list(itertools.islice(fitting, ROWS))
    longest = max(map(len, prompts), default=0)
    checks = []
    if prompts and limit > 0:  # otherwise PPO refuses them with a message, and SFT does not need them
        shortest = min(settings.min_new_tokens, limit)
        noise = rng.uniforms(range(len(prompts)), limit, config.seed, "doctor", 0, "responses", shortest)
        with torch.no_grad():
            checks += _first_iteration(run, stage, models, prompts, noise, reward)
        if is_compared(run.device):
            checks += against_cpu(models.reference, prompts, noise.nan_to_num(), models.tokenizer, run.dtype)
    training = training_of_sft(run, models) if stage == "sft" else None
    if checks and stage != "sft":
        training = training_of_policy(run, stage, models, prompts, noise)
    if training and all(check.ok or not check.stops for check in checks):
        checks += one_step(run, stage, training, models.reference)
    del training
    if stage != "sft" and models.reward_model is not None:
        checks += checks_of_reward_model(run.summary("reward_model"))
    needed = memory_needed(run, models.policy.lm, longest, _policy(stage))
    return [*checks, _memory_of_process(run, needed, program)]


def _memory_of_process(run: Run, needed: int, program: int) -> Check:
    if (run.device.type, run.dtype) == ("cpu", torch.bfloat16) and run.dtype not in _trained_in:
        needed += _SHAPES
    return _memory(needed, needed + program, run.device)


def preflight(run: Run) -> list[Check]:
    """What `doctor` finds for PPO, or for the stage before and the reward while what PPO starts from is not there."""
    if run.complete("reward_model" if needs_reward_model(run) else "sft"):
        return doctor(run, "ppo")
    trial = try_reward(run, ("ppo",), run.config.model)
    found, advice = f"{trial.seconds:.2g} seconds a response", "; ".join(trial.warnings)
    tried = [Check("reward", not trial.warnings, found, advice, False)] if trial.seconds else []
    return [*tried, *doctor(run, "reward_model" if run.complete("sft") else "sft")]


def check_memory(run: Run, stages: tuple[str, ...], lm: Any, prompt: int) -> None:
    """Refuse stages for which the machine has not half of the memory that they are predicted to need at most.

    Args:
        lm: the model, without weights.
        prompt: tokens of the longest prompt.

    Raises:
        ModelError: it has not.
    """
    policy = next((stage for stage in stages if stage not in ("sft", "reward_model", "evaluation")), "ppo")
    check = _memory(memory_needed(run, lm, prompt, policy), None, run.device)
    if check.stops and not check.ok:
        raise ModelError(check.line)


def _memory(needed: int, amount: int | None, device: torch.device) -> Check:
    """A warning where memory may not be enough, and a failure where the prediction would have to be twice too high."""
    free = memory.free(device)
    left = "; how much is free is unknown" if free is None else f", {free / 2**30:.1f} GiB free"
    found = f"{needed / 2**30:.1f} GiB needed at most{left}"
    advice = "lower microbatch_size, batch_size or max_new_tokens, set train_layers or lora_rank, or free some memory"
    enough = free is None or needed <= _TIGHT * free
    return Check("memory", enough, found, advice, stops=free is not None and needed > 2 * free, amount=amount)


def _policy(stage: str) -> str:
    """The algorithm whose responses are sampled."""
    return "ppo" if stage == "sft" else stage


def with_preflight_checks(
    run: Run, stage: str, start: Callable[[Any], Iterator[StepReport]], reward: AnyReward = None
) -> Iterator[StepReport]:
    """The reports that `start` makes from the models that were checked, the first with the warnings of the checks.

    Before the reward model these models are None, because it is made from the SFT model's folder. Models that are
    sharded are not checked.

    Leaves RUN/doctor.json and RUN/memory.json.

    Raises:
        ModelError: a check fails that everything after it depends on.
    """
    if dist.divides(run.config.sharding):  # the checks train a copy of the whole model
        yield from start(None)
        return
    models = None if stage == "reward_model" else open_models(run, stage, reward)
    checks = doctor(run, stage, models, reward)
    if stage == "sft":  # what follows is trained again
        remove_file(run.path / "doctor.json")
    # Without the last one, the free memory, which depends on the machine, the same seed gives the same file.
    _add_to(run.path / "doctor.json", stage, [vars(check) for check in checks[:-1]])
    for check in checks:
        if check.stops and not check.ok:
            raise ModelError(f"before {stage}: {check.line}")
    warnings = tuple(check.line for check in checks if not check.ok)
    _trained_in.add(run.dtype)
    for report in start(models):
        yield dataclasses.replace(report, warnings=warnings + report.warnings)
        warnings = ()
    measured = memory.peak(run.device)
    _add_to(run.path / MEMORY_FILE, stage, {"predicted": checks[-1].amount, "measured": measured})


def _add_to(path: Path, stage: str, entry: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, strict(content | {stage: entry}))


def _first_iteration(
    run: Run, stage: str, models: Models, prompts: list[list[int]], noise: torch.Tensor, reward: AnyReward
) -> Iterator[Check]:
    """A small first iteration up to its first loss, and the same figures computed in other ways.

    A base model, before SFT, is not held to what the algorithms ask of an SFT model.
    """
    settings, policy, engine = getattr(run.config, _policy(stage)), models.policy, models.engine
    trained = stage != "sft"
    tokenizer, temperature = models.tokenizer, settings.temperature
    responses = generate(policy, prompts, noise, tokenizer, temperature)
    mask, tokens = responses.response_mask, responses.response_ids
    batch = (responses.ids, responses.attention_mask, mask)

    logprobs, again = (policy(*batch, temperature)[0] for _ in range(2))
    gap = (logprobs - again).abs().max().item()
    advice = "two passes must agree; switch the model's dropout"
    yield Check("dropout", gap < _RATIO[run.dtype], f"two passes differ by at most {gap:.1g} nats", advice)

    def own(lm: Any, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
        """The model's own logits of the response tokens (N, V), and how far the engine's log-probabilities are off."""
        logits, _ = PlainEngine(dtype).response_logits(lm, *batch, temperature)
        logp = torch.log_softmax(logits, dim=-1).gather(1, tokens[mask][:, None]).squeeze(1)
        return logits, (logprobs[mask] - logp).abs().max().item()

    logits, gap = own(policy.lm, run.dtype)
    if gap >= _ENGINE_NATS[run.dtype] and run.dtype != torch.float32:
        # The model's own rounding can be the worse one: at one token of smollm2 it was 8 nats off, and the engine 0.1.
        logits, gap = own(copy.deepcopy(policy.lm).float(), torch.float32)
    advice = "use engine = plain" if not isinstance(engine, PlainEngine) else "use another model or version"
    if run.dtype == torch.bfloat16:
        advice = f"if --dtype float32 agrees it is rounding; otherwise {advice}"
    found = f"log-probabilities differ by at most {gap:.1g} nats"
    yield Check(ENGINE, gap < _ENGINE_NATS[run.dtype], found, advice)

    outside = draws_outside(logits, tokens[mask], noise[:, : mask.shape[1]][mask.cpu()])
    advice = "the sampler draws from another distribution than the one that is scored: check temperature and masks"
    found = f"the draws of {int(mask.sum())} tokens are off by {outside:.1g} of a probability on average"
    yield Check("sampling against scoring", outside < _OUTSIDE[run.dtype], found, advice)

    raw = torch.zeros(len(prompts), device=run.device)
    if trained and not run.reads_judgements(stage):
        opened = as_reward(run, reward, models, settings.lower_bound)
        raw = dist.on_main(lambda: opened(responses).cpu()).to(run.device)  # it may be paid for, or random
        low, high = raw.min().item(), raw.max().item()
        found = f"{opened.name}: from {low:.3g} to {high:.3g} on {len(raw)} responses"
        advice = "it never differs, so there is nothing to learn: check it with these responses"
        yield Check("reward", low < high, found, advice, False)
    scale = ScoreScale.measured(raw, settings.missing_eos_penalty)
    rollout, _ = score_rollout(policy, models.reference, responses, raw, scale, temperature)
    rows = torch.arange(min(len(prompts), settings.minibatch_size), device=run.device)
    part = select_rows(responses, rows)
    now, _ = policy(part.ids, part.attention_mask, part.response_mask, temperature)
    off = ((now - rollout.logprobs[rows])[part.response_mask].exp() - 1).abs()
    near = off.max().item() < _RATIO[run.dtype] and off.mean().item() < _MEAN_RATIO[run.dtype]
    advice = "rollout and update use different models or inputs; report this with the model's name"
    found = f"off by at most {off.max().item():.1g}, by {off.mean().item():.1g} on average"
    yield Check("initial ratio", near, found, advice)

    kl = rollout.kl.sum(1).abs().max().item()
    advice = "policy and reference must start as the same model"
    yield Check("initial KL", kl < _KL[run.dtype], f"at most {kl:.1g} nats per response", advice)

    size = policy.lm.get_input_embeddings().weight.shape[0]
    advice = "the tokenizer does not belong to this model; take both from one folder"
    yield Check("eos token", tokenizer.eos_id < size, f"id {tokenizer.eos_id} of {size:,}", advice)
    # A base model need not know yet where a text of this kind ends, and with min_new_tokens the ends are drawn.
    if trained and not settings.min_new_tokens:
        ended = responses.ended.cpu().double().mean().item()
        found = f"{ended:.0%} of {len(prompts)} responses end before the limit of {noise.shape[1]} tokens"
        yield Check(
            "responses that end", ended >= _ENDED, found, f"raise {stage}.max_new_tokens, or train SFT longer", False
        )
