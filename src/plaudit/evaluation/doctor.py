"""What must hold before step 1, looked at with the run's own models, prompts and code: a few seconds a look."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from plaudit import rng
from plaudit.algorithms.ppo import REFERENCE_SAMPLES, ppo_loss
from plaudit.algorithms.rollout import ScoreScale, collect, estimate, respond, score_responses
from plaudit.batches import Responses
from plaudit.config import Config
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts
from plaudit.errors import ModelError
from plaudit.maths.logprobs import token_logprobs
from plaudit.models.cache import Reader
from plaudit.models.heads import Policy, logits_at_once, logits_of, response_logits, response_states
from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer, window
from plaudit.models.precision import halve
from plaudit.models.states import MAPPED_FROM
from plaudit.models.tokenizer import Tokenizer
from plaudit.models.trunk import blocks, frozen_blocks, share_below
from plaudit.training import memory
from plaudit.training.metrics import StepReport
from plaudit.training.run import MEMORY_FILE, Run, write_json

_MEMORY = "memory"
_ROWS = 16  # real prompts, each answered once
# The same figure by two ways: float32 rounds in the sixth place, bfloat16 in the third.
_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.3}
# By two orders of the same products, at the unlikeliest of some hundred tokens: smollm2 differs by 0.3 in bfloat16.
_CACHE_NATS = {torch.float32: 1e-3, torch.bfloat16: 1.0}
# How far, on average, a random number may lie outside the share of [0, 1) that the scored distribution gives its token.
_OUTSIDE = {torch.float32: 1e-4, torch.bfloat16: 3e-3}
_ENDED = 0.5  # share of responses that should end before the cap
_LENGTH_BIAS = 0.3  # correlation of logit and length at which length explains a tenth of the logit
_TIGHT = 0.8  # share of the free memory
# Numbers that a layer keeps for the backward pass, for each token and unit of width (counted for GPT-2), and
# copies of the logits that exist at once: in a loss with its gradient, and in a rollout with its KL and entropy.
_KEPT, _LOSS_COPIES, _ROLLOUT_COPIES = 18, 4, 5
# In bfloat16 oneDNN keeps code for every shape of a product, up to a thousand; measured for movie-gpt2, AVX512-BF16.
_SHAPES = 2**29
# On a CPU what is freed is kept (`memory.keep_freed`), and some of it fits nothing that comes after it.
_HOLES = 1.15
_learned_in: set[torch.dtype] = set()  # formats in which this process has trained: that code is the program's by then


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was checked.
        ok: whether it is as it should be.
        figure: what was found.
        advice: what to do when it is not ok.
        stops: nothing that is trained on top could be trusted; otherwise it is for people to judge.
        amount: the figure as a number, where the run will be held against it.
    """

    name: str
    ok: bool
    figure: str
    advice: str
    stops: bool = True
    amount: float | None = None

    @property
    def mark(self) -> str:
        """ok, WARN, or FAIL where training must not begin."""
        return "ok" if self.ok else "FAIL" if self.stops else "WARN"

    @property
    def line(self) -> str:
        """The check in one line; the advice only where it is needed."""
        return f"{self.name}: {self.figure}" + ("" if self.ok else f"; {self.advice}")


def doctor(config: Config, run: Run, stage: str) -> list[Check]:
    """Look at what `stage` starts from.

    Args:
        stage: "sft" looks at the base model, "ppo" at the run's SFT and reward model.

    Raises:
        RunError: a model that "ppo" starts from is not there.
    """
    memory.give_back()  # what earlier stages freed is not the program's
    trained, program = stage == "ppo", memory.held(run.device)
    name = run.model("sft") if trained else config.model
    tokenizer, settings = load_tokenizer(name), config.ppo
    policy = Policy(load_causal_lm(name)).to(run.device).eval()
    reference = load_causal_lm(name).to(run.device).eval().requires_grad_(False)
    texts = cut_prompts(load(config.data).prompts, config.prompt_min, config.prompt_max, config.seed)
    prompts = [tokenizer.prompt(text) for text in texts[:_ROWS]]
    longest = max(map(len, prompts), default=0)
    cap = min(settings.max_new_tokens, window(reference) - longest)
    scorer = None
    if trained:
        scorer = (
            load_reward_model(run.model("reward_model"), tokenizer.pad_id).to(run.device).eval().requires_grad_(False)
        )

    checks: list[Check] = []
    if prompts and cap > 0:  # otherwise PPO refuses them, and says why; SFT alone does not need them
        noise = rng.uniforms(range(len(prompts)), cap, config.seed, "doctor", 0, "responses")
        with torch.no_grad():
            checks += _first_iteration(policy, reference, scorer, prompts, noise, tokenizer, config, run)
    checks += _reward_model(run.summary("reward_model")) if trained else []
    needed = memory_needed(config, policy.lm, longest)
    if run.device.type == "cpu":
        needed = round(_HOLES * needed)
    if (run.device.type, run.dtype) == ("cpu", torch.bfloat16) and run.dtype not in _learned_in:
        needed += _SHAPES
    return [*checks, _memory(needed, program, run)]


def after_doctor(config: Config, run: Run, stage: str, reports: Iterator[StepReport]) -> Iterator[StepReport]:
    """The stage's reports, the first with what the doctor doubts; leaves RUN/doctor.json and RUN/memory.json.

    Raises:
        ModelError: something does not hold that everything after it rests on.
    """
    checks = doctor(config, run, stage)
    path = run.path / "doctor.json"
    before = json.loads(path.read_text(encoding="utf-8")) if stage == "ppo" and path.exists() else {}
    # Free memory is the machine's affair: without it the same seed gives the same file.
    write_json(path, before | {stage: [dataclasses.asdict(c) for c in checks if c.name != _MEMORY]})
    for check in checks:
        if check.stops and not check.ok:
            raise ModelError(f"before {stage}: {check.line}")
    doubts = tuple(check.line for check in checks if not check.ok)
    _learned_in.add(run.dtype)
    for report in reports:
        yield dataclasses.replace(report, warnings=doubts + report.warnings)
        doubts = ()
    # What was foreseen, held against what came: of the whole process, and so the largest of its stages until now.
    path, measured = run.path / MEMORY_FILE, memory.peak(run.device)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, before | {stage: {"predicted": checks[-1].amount, "measured": measured}})


def _first_iteration(
    policy: Policy,
    reference: Any,
    scorer: Any,
    prompts: list[list[int]],
    noise: torch.Tensor,
    tokenizer: Tokenizer,
    config: Config,
    run: Run,
) -> Iterator[Check]:
    """A small first iteration of PPO up to its first loss, and the same again by other ways."""
    settings, near = config.ppo, _NATS[run.dtype]
    # A base model is not asked for what PPO will want of it.
    depth = 0 if scorer is None else frozen_blocks(policy.lm, settings.train_layers, "ppo.train_layers")
    depth = share_below(policy.lm, reference, depth)
    for model in (policy.lm, reference, scorer):
        if model is not None:
            halve(model, run.dtype)
    responses = respond(policy.lm, prompts, noise, tokenizer, settings.temperature, run, depth)
    mask, tokens = responses.response_mask, responses.response_ids
    said = tokens[mask]

    def full() -> torch.Tensor:
        with run.autocast():
            return response_logits(policy.lm, responses.ids, responses.attention_mask, mask, settings.temperature)

    logits, again = full(), full()
    logprobs = token_logprobs(logits, said)

    def furthest(other: torch.Tensor) -> float:
        return (logprobs - token_logprobs(other, said)).abs().max().item()

    gap = furthest(again)
    advice = "two passes must agree; switch the model's dropout off"
    yield Check("dropout off", gap < near, f"two passes differ by {gap:.1g} nats at most", advice)

    gap = furthest(_cached_logits(policy.lm, responses, run) / settings.temperature)
    if depth:  # what the frozen blocks left while the responses were sampled
        with run.autocast():
            kept = response_states(policy.lm, responses.ids, responses.attention_mask, mask, responses.below)
        gap = max(gap, furthest(logits_of(policy.lm, kept, settings.temperature)))
    advice = "the model's key-value cache or its positions under padding are wrong; use another model or version"
    if run.dtype == torch.bfloat16:
        advice = f"rounding, if --dtype float32 mends it; else {advice}"
    near_cache = _CACHE_NATS[run.dtype]
    yield Check(
        "cache equals full forward", gap < near_cache, f"log-probabilities differ by {gap:.1g} nats at most", advice
    )

    outside = _outside(logits, said, noise[:, : mask.shape[1]][mask].to(run.device))
    advice = "the sampler draws from another distribution than the one that is scored: look at temperature and masks"
    found = f"the draws of {len(said)} tokens are off by {outside:.1g} of a probability on average"
    yield Check("sampled equals scored", outside < _OUTSIDE[run.dtype], found, advice)

    scores = torch.zeros(len(prompts), device=run.device)
    if scorer is not None:
        scores = score_responses(scorer, responses, run)
    scale = ScoreScale.measured(scores, settings.missing_eos_score)
    rollout, kl, _ = collect(policy, reference, scores, responses, scale, settings.temperature, run)
    experience = estimate(rollout, settings.kl_coef, settings.gamma, settings.lam)
    order = rng.permutation(len(prompts), config.seed, "doctor", 0)
    stats = ppo_loss(policy, next(experience.minibatches(order, settings.minibatch_size)), settings, run)[1]
    worst = max(abs(stats[name].item() - 1) for name in ("ratio_mean", "ratio_max"))
    advice = "rollout and update see different models or inputs; report this with the model's name"
    yield Check("initial ratio 1", worst < near, f"off by {worst:.1g} at most", advice)

    moved = kl.sum(1).abs().max().item()
    advice = "policy and reference must begin as the same model"
    yield Check("initial KL 0", moved < near, f"{moved:.1g} nats per response at most", advice)

    size, cap = policy.lm.get_output_embeddings().weight.shape[0], noise.shape[1]
    advice = "the tokenizer does not belong to this model; give both from one folder"
    yield Check("eos in the vocabulary", tokenizer.eos_id < size, f"id {tokenizer.eos_id} of {size:,}", advice)
    if scorer is not None:  # a base model need not know yet where a text of this kind ends
        ended = responses.ended.double().mean().item()
        found = f"{ended:.0%} of {len(prompts)} responses end before the cap of {cap} tokens"
        yield Check("eos reachable", ended >= _ENDED, found, "raise ppo.max_new_tokens, or train SFT longer", False)


def _outside(logits: torch.Tensor, tokens: torch.Tensor, noise: torch.Tensor) -> float:
    """Mean distance of the random numbers (N,) from the shares of [0, 1) that logits (N, V) give the tokens (N,)."""
    shares = torch.softmax(logits.double(), dim=-1)
    rows = torch.arange(len(tokens), device=tokens.device)
    upper = shares.cumsum(-1)[rows, tokens]
    lower = upper - shares[rows, tokens]
    return torch.maximum(lower - noise, noise - upper).clamp(min=0).mean().item()


def _cached_logits(lm: Any, responses: Responses, run: Run) -> torch.Tensor:
    """(N, V) logits of the response tokens, read one after the other on a cache of what came before."""
    width = responses.response_mask.shape[1]
    reader, states = Reader(lm, responses.ids.shape[1]), []
    with run.autocast():
        for part in (slice(-width), *(slice(-k, -k + 1 or None) for k in range(width, 1, -1))):
            states.append(reader.read(responses.ids[:, part], responses.attention_mask[:, part])[1])
    return logits_of(lm, torch.stack(states, dim=1)[responses.response_mask])


def _reward_model(summary: dict[str, Any]) -> Iterator[Check]:
    """What the reward stage found on held-out judgements."""
    low, high = summary.get("accuracy_ci95", (0.0, 1.0))
    found = f"accuracy {low:.1%} to {high:.1%} on {summary['held_out']} held-out judgements (95 % interval)"
    advice = "PPO would optimise noise: give more or cleaner judgements, or raise reward_model.epochs"
    yield Check("reward model better than chance", low > 0.5, found, advice, False)
    slope = summary.get("length_correlation", 0.0)
    advice = "PPO may change the length instead of the content: balance the lengths of good and bad texts"
    found = f"logit and length correlate at {slope:+.2f}"
    yield Check("reward model not length-biased", abs(slope) <= _LENGTH_BIAS, found, advice, False)


def _memory(needed: int, program: int, run: Run) -> Check:
    free, together = memory.free(run.device), needed + program
    if free is None:
        found = f"{needed / 2**30:.1f} GiB needed at most; how much is free is unknown"
        return Check(_MEMORY, True, found, "", False, together)
    found = f"{needed / 2**30:.1f} GiB needed at most, {free / 2**30:.1f} GiB free"
    advice = "lower ppo.minibatch_size, sft.batch_size or ppo.max_new_tokens, or free some memory"
    return Check(_MEMORY, needed <= _TIGHT * free, found, advice, False, together)


def memory_needed(config: Config, lm: Any, prompt: int) -> int:
    """Bytes that the hungriest stage takes beyond the program itself; an estimate for float32.

    Args:
        prompt: tokens of the longest prompt.
    """
    weights = 4 * sum(p.numel() for p in lm.parameters())
    head = lm.get_output_embeddings()
    vocabulary, width = head.weight.shape
    one_layer = 4 * _KEPT * width  # of one token; all that a pass without gradients holds at a time
    sft, reward, ppo = config.sft, config.reward_model, config.ppo

    def learns(part: Any) -> int:
        """Of the weights; what adapters take is small beside them."""
        if part.lora_rank:
            return 0
        learning = blocks(lm)[frozen_blocks(lm, part.train_layers) :] if part.train_layers else [lm]
        return 4 * sum(p.numel() for module in learning for p in module.parameters())

    def held(part: Any) -> int:
        """A model, with the gradient and Adam's two moments of what learns."""
        return weights + 3 * learns(part)

    def states(part: Any, others: int = 0) -> int:
        """What frozen blocks leave of all texts, at most; more of it the system may drop.

        Args:
            others: blocks that learn in a stage for which it is kept, too.
        """
        return MAPPED_FROM * (1 + (others > part.train_layers)) if part.train_layers else 0

    def copied(part: Any) -> int:
        """To save the model, or a checkpoint of what learns and its moments."""
        return max(weights, 3 * learns(part))

    def logits(tokens: int, copies: int, *, learned: bool) -> int:
        return 4 * copies * min(tokens * vocabulary, logits_at_once(head.weight.device, learned=learned))

    def batch(part: Any, rows: int, tokens: int, predicted: int) -> int:
        """A batch that is learned from: what the layers keep, and logits."""
        layers = part.train_layers or lm.config.num_hidden_layers
        learned = not (part.train_layers or part.lora_rank) or head.bias is not None
        of_head = logits(rows * predicted, _LOSS_COPIES, learned=learned)
        return rows * tokens * layers * one_layer + of_head

    update = batch(ppo, min(ppo.minibatch_size, ppo.batch_size), prompt + ppo.max_new_tokens, ppo.max_new_tokens)
    rollout = logits(ppo.batch_size * ppo.max_new_tokens, _ROLLOUT_COPIES, learned=False)
    heads = lm.config.num_attention_heads
    keys_and_values = 4 * 2 * width * getattr(lm.config, "num_key_value_heads", heads) // heads  # of a token and layer
    tokens = max(REFERENCE_SAMPLES, ppo.batch_size) * (prompt + ppo.max_new_tokens)
    sampling = tokens * (one_layer + lm.config.num_hidden_layers * keys_and_values)
    return max(
        held(sft)
        + states(sft, reward.train_layers)
        + max(batch(sft, sft.batch_size, sft.max_tokens, sft.max_tokens), copied(sft)),
        held(reward)
        + states(reward)
        + max(batch(reward, 2 * reward.batch_size, reward.max_tokens, 0), copied(reward)),
        # The reference and the reward model have what learned a second time, and share the rest with the policy.
        # What one phase has used is rarely fit for the next: they add up.
        held(ppo) + learns(ppo) + learns(reward) + update + rollout + sampling,
        learns(ppo) + 3 * weights,  # while the last of the three is opened: in the file and out of it
    )
