"""Faults seen in published code and in our own, as mutants of plaudit, with the tests that must catch them.

`make mutants` runs them (tests/mutants.py), and test_mutants.py checks that each still fits the code. A fault often has
several mutants. A mutant takes the original function and returns its replacement.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mutants import Mutant
from torch import nn

from plaudit.algorithms.reinforce import ReinforceBatch
from plaudit.batches import Responses, number_of_rows
from plaudit.maths.kl import kl_k3
from plaudit.maths.masked import masked_mean, masked_sum, masked_variance
from plaudit.models.layers import layers
from plaudit.models.policy import Policy
from plaudit.rewards import FunctionReward, ModelReward, Part, Reward
from plaudit.training.rollouts import ScoreScale

MUTANTS: list[Mutant] = []


def fault(number: int, name: str, tests: str, *targets: str) -> Callable[[Callable[..., Any]], None]:
    """Register a function that makes the replacement of a target; see `mutants.Mutant`."""
    return lambda build: MUTANTS.append(Mutant(number, name, tuple(tests.split()), targets, build))


def arguments(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Builds a replacement that calls the original with changed arguments."""

    def build(original):
        signature = inspect.signature(original)
        assert set(changes) <= set(signature.parameters), signature

        def replacement(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            bound.arguments |= {name: change(bound.arguments[name]) for name, change in changes.items()}
            return original(*bound.args, **bound.kwargs)

        return replacement

    return build


def result(change: Callable[..., Any]) -> Callable[[Any], Any]:
    """Builds a replacement that changes the original's result; `change` gets the result and all arguments in order."""

    def build(original):
        signature = inspect.signature(original)

        def replacement(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return change(original(*args, **kwargs), *bound.args, *bound.kwargs.values())

        return replacement

    return build


def effect(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Builds a replacement that changes the object that the original returns."""

    def changed(found, *_):
        change(found)
        return found

    return result(changed)


ENGINES = ("models.plain.PlainEngine", "models.fast.engine.FastEngine")
GENERATE, COMPARE, LOGPROBS, CLIP_AND_STEP = (
    tuple(f"{engine}.{method}" for engine in ENGINES) for method in ("generate", "compare", "logprobs", "clip_and_step")
)
HEAD_LOGPROBS = "models.fast.head._Logprobs"
DECODE = "models.fast.generation.generate"
SLICED = "models.fast.optimizer.SlicedAdamW"
SCALE = "training.rollouts.ScoreScale"
LOAD_MODELS = "training.models.Models.of"
MEASUREMENT = "evaluation.evaluate.Measurement"

ENGINE = "models/fast/test_engine.py::test_fast_equals_plain"
STEP = "models/fast/test_engine.py::test_a_step_and_restore_leave_the_float32_model_that_plain_training_leaves"
TIED = "models/fast/test_engine.py::test_a_tied_embedding_has_the_same_dense_gradient_whatever_the_loss_is_of"
EVERY_GRADIENT = "models/fast/test_engine.py::test_every_tool_of_torch_sees_every_gradient"
FIRST = "proofs/test_first_minibatch.py::test_the_first_minibatch_of_an_update"
FIRST_OF_PPO = "proofs/test_first_minibatch.py::test_the_first_iteration_of_ppo"
LATER = "proofs/test_first_minibatch.py::test_later_the_policy_has_moved_and_the_reference_has_not"
IDS = "algorithms/test_ppo.py::test_responses_stay_token_ids_from_sampling_to_scoring"
RETURNS = "algorithms/test_ppo.py::test_returns_come_from_raw_advantages_which_are_whitened_afterwards"
SCHEDULES = "algorithms/test_ppo.py::test_the_kl_controller_and_the_learning_rate_schedule_change_what_they_should"
PPO_GRADIENT = "proofs/test_gradient.py::test_the_mean_sampled_gradient_of_ppo_is_the_exact_one"
EXPECTED_PPO = "proofs/test_gradient.py::test_the_expected_gradient_of_ppo_is_the_exact_one_but_for_whitening"
NATURAL_STEPS = "proofs/test_optimum.py::test_without_a_critic_three_natural_steps_reach_the_optimum"
SAMPLED_GRADIENT = "proofs/test_gradient.py::test_the_mean_sampled_gradient_of_reinforce_is_the_exact_one"
REINFORCE_GRADIENT = "proofs/test_gradient.py::test_the_expected_gradient_of_reinforce_is_the_exact_one"
ACTIVATIONS_OF_RESPONSES = (
    "models/fast/test_generation.py::test_the_activations_of_generated_texts_are_those_of_the_full_forward"
)
LENGTH_LIMIT = "models/fast/test_generation.py::test_the_length_limit_cuts_responses_off_and_says_so"
EACH_TOKEN = "models/fast/test_generation.py::test_each_token_is_the_one_that_a_full_forward_draws"
PLAIN_GENERATION = "models/test_plain.py::test_generation_draws_what_a_loop_without_a_cache_draws"
OTHER_POLICY = "training/test_models.py::test_a_policy_that_differs_from_sft_in_every_layer_is_measured_rightly"
SHARED = "training/test_models.py::test_the_models_share_every_frozen_matrix_in_which_they_are_equal"
LAST_BATCH = "training/test_supervised.py::test_every_record_comes_once_in_an_epoch_and_the_last_batch_is_kept"
RATES = "training/test_supervised.py::test_the_learning_rate_of_every_step_rises_during_warmup_and_falls_to_zero"
MEAN_OVER_TOKENS = "training/test_optimizer.py::test_the_loss_of_a_batch_is_its_mean_over_tokens_by_hand"
BAD_GRADIENT = "training/test_optimizer.py::test_a_gradient_that_is_not_finite_changes_nothing"
ANSWERS = "evaluation/test_evaluate.py::test_the_figures_of_a_response_are_those_of_transformers_own_forward_pass"
VERDICTS = "evaluation/test_evaluate.py::test_the_judge_reads_the_responses_without_their_prompts"


# 1. Returns are the targets of the value head; advantages are whitened after they are computed.
fault(1, "returns computed from whitened advantages", RETURNS, "algorithms.ppo.compute_advantages")(
    result(lambda batch, rollout, values, *rest: replace(batch, returns=batch.advantages + values))
)

# 2. Whitening.
fault(2, "whitening adds the mean back", "maths/test_masked.py", "maths.masked.whiten")(
    result(lambda white, x, mask: white + masked_mean(x, mask))
)
fault(2, "whitening scales and does not shift", "maths/test_masked.py", "maths.masked.whiten")(
    lambda whiten: lambda x, mask: x / masked_variance(x, mask).sqrt()
)


# 3. The end of a text is learned.
fault(3, "no end token after a response", "models/test_tokenizer.py", "models.tokenizer.Tokenizer.response")(
    result(lambda ids, *_: ids[:-1])
)


@fault(
    3,
    "pad is eos, and masked out of the loss",
    "models/test_tokenizer.py",
    "models.tokenizer._padding_id",
    "models.tokenizer.collate",
)
def _(padding_id, collate):
    def masked_by_id(pairs, pad_id):
        batch = collate(pairs, pad_id)
        return replace(batch, loss_mask=batch.loss_mask & (batch.ids != pad_id))

    return lambda hf: hf.eos_token_id, masked_by_id


fault(3, "the loss leaves out the last token", "models/test_tokenizer.py", "models.tokenizer.collate")(
    result(lambda batch, *_: replace(batch, loss_mask=batch.loss_mask & F.pad(batch.loss_mask[:, 1:], (0, 1))))
)

# 4. Responses that the length limit cuts off.
fault(4, "a random length limit for each rollout", IDS, "training.rollouts.generate")(
    arguments(noise=lambda noise: noise[:, : 1 + int(noise[0, 0] * noise.shape[1])])
)
fault(4, "no penalty for a missing end token", "training/test_rollouts.py", f"{SCALE}.scores")(
    arguments(ended=torch.ones_like)
)
fault(4, "the penalty replaces the score", "training/test_rollouts.py", f"{SCALE}.scores")(
    lambda scores: (
        lambda self, raw, ended: ((raw - self.mean) / self.std).masked_fill(~ended, -self.missing_eos_penalty)
    )
)
fault(4, "a response that was cut off counts as ended", LENGTH_LIMIT, *GENERATE)(
    result(lambda responses, *_: replace(responses, ended=torch.ones_like(responses.ended)))
)


# 5. The value head starts at zero.
@fault(5, "the value head starts with noise", "models/test_policy.py", "models.policy.Policy.__init__")
def _(init):
    def replacement(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if self.value_head is not None:
            nn.init.normal_(self.value_head.weight)

    return replacement


# 6. The reward model gives logits, which are normalised.
fault(6, "sigmoid inside the loss as well", "maths/test_losses.py", "maths.losses.label_loss")(
    arguments(logits=torch.sigmoid)
)
fault(6, "sigmoid inside the model", "models/test_policy.py", "models.policy.RewardModel.forward")(
    result(lambda logits, *_: torch.sigmoid(logits))
)
fault(6, "a saturated probability as the score", "training/test_rollouts.py", f"{SCALE}.scores")(
    lambda scores: lambda self, raw, ended: torch.sigmoid(raw) - self.missing_eos_penalty * ~ended
)
fault(6, "the scale of the scores is not measured", "training/test_rollouts.py", f"{SCALE}.measured")(
    lambda measured: lambda raw, penalty: ScoreScale(0.0, 1.0, penalty)
)

# What people judged.
JUDGED, PEOPLE = "algorithms/test_reward_model.py", "data/test_judgements.py"
ENSEMBLE = "algorithms/test_ensembles.py"
fault(6, "a margin that pulls the scores together", "maths/test_losses.py", "maths.losses.bradley_terry_loss")(
    arguments(margin=lambda margin: None if margin is None else -margin)
)
fault(6, "rankings from the worst to the best", f"maths/test_losses.py {JUDGED}", "maths.losses.plackett_luce_loss")(
    arguments(scores=torch.neg)
)
fault(6, "texts that are not there are ranked", "maths/test_losses.py", "maths.losses.plackett_luce_loss")(
    arguments(present=torch.ones_like)
)


@fault(6, "votes in the other order are not turned", PEOPLE, "data.judgements._of_votes")
def _(of_votes):
    def replacement(comparisons):
        a, b = comparisons[0].response_a, comparisons[0].response_b
        return of_votes([replace(c, response_a=a, response_b=b) for c in comparisons])

    return replacement


fault(6, "somebody who votes twice counts twice", PEOPLE, "data.judgements._of_votes")(
    arguments(
        comparisons=lambda cs: [replace(c, annotator=c.annotator and f"{c.annotator} {i}") for i, c in enumerate(cs)]
    )
)
fault(6, "a rule that is level counts as worse", "maths/test_preferences.py", "maths.preferences.exceeds")(
    lambda exceeds: lambda one, other: bool(one.mean() >= other.mean())
)
fault(
    6,
    "members with the same head and order",
    f"{ENSEMBLE}::test_each_member_is_a_model_of_its_own",
    "training.supervised.member_name",
)(arguments(member=lambda member: 1))
fault(
    6,
    "the upper bound of an ensemble",
    f"{ENSEMBLE}::test_the_score_is_the_mean_less_the_spread",
    "training.rewards.as_reward",
)(arguments(lower_bound=lambda bound: -bound))

# 7. Both models are measured alike, and by a judge that was not optimised.
fault(7, "the judge is the reward model", VERDICTS, "evaluation.evaluate.figures")(
    lambda figures: lambda answers, verdicts, seed: figures(answers, (1 + answers.scores) / 2, seed)
)


@fault(7, "the prompt's sentiment counts", VERDICTS, f"{MEASUREMENT}.answer")
def _(answer):
    def replacement(self, lm, prompts, noise):
        found = answer(self, lm, prompts, noise)
        texts = [self.tokenizer.text([*p, *t]) for p, t in zip(prompts, found.tokens, strict=True)]
        return replace(found, texts=texts)

    return replacement


def _compared(change):
    """A comparison of which the policy gets changed prompts and noise."""
    return lambda compare: (
        lambda self, prompts, noise: (
            self.answer(self.sft, prompts, noise),
            self.answer(self.policy, *change(prompts, noise)),
        )
    )


fault(7, "the policy answers other prompts than SFT", ANSWERS, f"{MEASUREMENT}.compare")(
    _compared(lambda prompts, noise: (prompts[::-1], noise))
)
fault(7, "the policy answers with other random numbers than SFT", ANSWERS, f"{MEASUREMENT}.compare")(
    _compared(lambda prompts, noise: (prompts, noise.flip(1)))
)
fault(7, "the policy answers with another length limit than SFT", ANSWERS, f"{MEASUREMENT}.compare")(
    _compared(lambda prompts, noise: (prompts, noise[:, :4]))
)
fault(7, "an interval of no width", "evaluation/test_metrics.py", "evaluation.metrics.bootstrap_ci95")(
    result(lambda _, values, seed: (float(values.mean()), float(values.mean())))
)

# 8. KL is measured, logged and bounded.
fault(8, "KL is not logged", LATER, "training.rollouts.StepReport")(
    arguments(metrics=lambda metrics: metrics | {"kl": 0.0})
)
fault(8, "the penalty is left out of the reward", "maths/test_advantages.py", "maths.advantages.token_rewards")(
    arguments(kl_coef=lambda kl_coef: 0.0)
)
fault(8, "the penalty is left out of REINFORCE", REINFORCE_GRADIENT, "algorithms.reinforce.reinforce_advantages")(
    arguments(kl_coef=lambda kl_coef: 0.0)
)
for method in ("rloo", "grpo"):
    fault(8, f"the penalty is left out of {method.upper()}", NATURAL_STEPS, f"algorithms.{method}.{method}_batch")(
        arguments(kl_coef=lambda kl_coef: 0.0)
    )
fault(8, "the adaptive coefficient stays fixed", SCHEDULES, "training.rollouts.adapt_kl_coef")(
    lambda adapt_kl_coef: lambda kl_coef, *_: kl_coef
)
fault(8, "the controller is not clipped", "maths/test_kl.py", "maths.kl.adapt_kl_coef")(
    lambda adapt_kl_coef: lambda kl_coef, kl, target, n, horizon: kl_coef * (1 + (kl / target - 1) * n / horizon)
)

# 9. Every bound of an update is applied.
fault(9, "no gradient clipping", "training/test_rollouts.py", *CLIP_AND_STEP)(arguments(max_norm=lambda max_norm: 1e9))
fault(9, "the clipping of gradients is computed and not applied", "models/fast/test_optimizer.py", f"{SLICED}.step")(
    arguments(scale=lambda scale: 1.0)
)


@fault(9, "the gradient norm leaves out bfloat16", "models/fast/test_optimizer.py", f"{SLICED}.gradient_norm")
def _(gradient_norm):
    def replacement(self):
        gradients = [p.grad for p in self.parameters() if p.grad is not None and p.grad.dtype == torch.float32]
        return nn.utils.get_total_norm(gradients).item()

    return replacement


fault(9, "no value clipping", "maths/test_losses.py", "maths.losses.value_loss")(
    arguments(value_clip=lambda value_clip: 1e9)
)
fault(9, "no ratio clipping", "maths/test_losses.py", "maths.losses.policy_loss")(
    arguments(clip_range=lambda clip_range: 1e9)
)
fault(9, "no schedule in PPO, though one is logged", SCHEDULES, "training.rollouts.set_lr")(
    lambda set_lr: lambda optimizer, lr: None
)
fault(9, "no schedule in supervised training, though one is logged", RATES, "training.supervised.set_lr")(
    lambda set_lr: lambda optimizer, lr: None
)
fault(9, "no KL stop", "training/test_rollouts.py", "training.optimizer.update")(arguments(stop=lambda stop: None))


@fault(9, "a loss that is not finite counts as zero", "training/test_optimizer.py", "training.optimizer.accumulate")
def _(accumulate):
    def replacement(batch, microbatch_size, loss, count, where, model=None):
        def guarded(part):
            (total, number), stats = loss(part)
            return (torch.nan_to_num(total, 0.0, 0.0, 0.0), number), stats

        return accumulate(batch, microbatch_size, guarded, count, where, model)

    return replacement


@fault(9, "a gradient that is not finite is stepped on", BAD_GRADIENT, *CLIP_AND_STEP)
def _(clip_and_step):
    def replacement(self, optimizer, max_norm):
        norm = clip_and_step(self, optimizer, max_norm)
        if not math.isfinite(norm):
            optimizer.step()
        return norm

    return replacement


# 10. The last batch may be smaller.
fault(10, "the last, smaller minibatch is left out", "test_batches.py", "batches.split_rows")(
    lambda split_rows: lambda batch, order, size: split_rows(batch, order[: len(order) // size * size], size)
)
fault(10, "the last, smaller minibatch is filled from the first", "test_batches.py", "batches.split_rows")(
    lambda split_rows: (
        lambda batch, order, size: split_rows(
            batch, order[torch.arange(-(-len(order) // size) * size).numpy() % len(order)], size
        )
    )
)
fault(10, "the last, smaller batch of an epoch is left out", LAST_BATCH, "training.supervised.epoch_batches")(
    result(lambda batches, lengths, batch_size, *_: [b for b in batches if len(b) == batch_size])
)


# 11. Generation is batched, and tokens stay tokens.
@fault(11, "one prompt at a time", "proofs/test_faults.py", *GENERATE)
def _(generate):
    def replacement(self, lm, prompt_ids, prompt_mask, noise, end_ids, pad_id, temperature=1.0):
        rest = (end_ids, pad_id, temperature)
        rows = zip(prompt_ids.split(1), prompt_mask.split(1), noise.split(1), strict=True)
        parts = [generate(self, lm, *row, *rest) for row in rows]
        width = max(part.ids.shape[1] for part in parts)

        def joined(name, value):
            return torch.cat([F.pad(getattr(p, name), (0, width - p.ids.shape[1]), value=value) for p in parts])

        ended = torch.cat([part.ended for part in parts])
        return Responses(joined("ids", pad_id), joined("attention_mask", False), joined("response_mask", False), ended)

    return replacement


@fault(11, "decoded and tokenised again for the reward model", IDS, "training.rollouts.as_reward")
def _(as_reward):
    def replacement(run, reward, models, lower_bound):
        class Retokenised(ModelReward):
            def __call__(self, responses):
                tokenizer, raw = models.tokenizer, []
                for ids, mask in zip(responses.ids, responses.attention_mask, strict=True):
                    again = torch.tensor([tokenizer.prompt(tokenizer.text(ids[mask].tolist()))])
                    raw.append(self.model(again, torch.ones_like(again, dtype=torch.bool)).float())
                return torch.cat(raw)

        assert reward is None
        return Reward((Part("model", 1.0, Retokenised(models.reward_model)),))

    return replacement


# 12. What is scored is what is sampled from.
def _untempered(field):
    """A comparison of which one figure is at temperature 1."""

    def build(compare):
        def replacement(self, lm, reference, responses, temperature=1.0, *, gradient=False):
            found, raw = (compare(self, lm, reference, responses, t, gradient=gradient) for t in (temperature, 1.0))
            return found._replace(**{field: getattr(raw, field)})

        return replacement

    return build


fault(12, "temperature left out of the policy's scoring", FIRST, *COMPARE)(_untempered("logprobs"))
fault(12, "temperature left out of the reference's scoring", FIRST, *COMPARE)(_untempered("ref_logprobs"))
fault(12, "temperature left out of learning", FIRST, "algorithms.ppo.ppo_loss")(
    arguments(settings=lambda settings: replace(settings, temperature=1.0))
)
fault(
    12, "temperature left out of learning in REINFORCE", "proofs/test_faults.py", "algorithms.reinforce.reinforce_loss"
)(arguments(temperature=lambda temperature: 1.0))
fault(12, "temperature left out of all scoring", "models/test_policy.py", *LOGPROBS, *COMPARE)(
    arguments(temperature=lambda temperature: 1.0)
)


@fault(
    12,
    "temperature left out of the gradient under a frozen head",
    "models/fast/test_head.py",
    f"{HEAD_LOGPROBS}.backward",
)
def _(backward):
    def replacement(ctx, gradient):
        if ctx.slopes is not None:
            ctx.slopes *= ctx.temperature
        return backward(ctx, gradient)

    return replacement


fault(12, "temperature left out of scoring in bfloat16", "models/fast/test_head.py", "models.fast.head.Head.logits")(
    lambda logits: lambda self, states, temperature: logits(self, states, 1.0 if self.rounded else temperature)
)
fault(12, "temperature left out of sampling", EACH_TOKEN, *GENERATE)(arguments(temperature=lambda temperature: 1.0))
fault(12, "rollouts are sampled at temperature 1", IDS, "training.rollouts.generate")(
    arguments(temperature=lambda temperature: 1.0)
)
fault(12, "top-k in sampling", "models/test_sampling.py", "models.sampling.sample_tokens")(
    arguments(logits=lambda logits: logits.masked_fill(logits < logits.topk(2).values[:, -1:], -torch.inf))
)

# 13. No dropout.
fault(13, "dropout in rollouts", FIRST_OF_PPO, LOAD_MODELS)(effect(lambda models: models.policy.train()))
fault(13, "dropout in the reference", FIRST_OF_PPO, LOAD_MODELS)(effect(lambda models: models.reference.train()))
fault(13, "dropout between old and new logprobs", FIRST, "training.optimizer.update")(
    arguments(policy=lambda policy: policy.train())
)

# 14. Padding, positions, and which state belongs to which token.
fault(14, "positions count the padding", "models/test_policy.py", "models.plain.position_ids")(
    lambda position_ids: lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
)
fault(14, "positions after the prompt are one too high", ENGINE, "models.fast.decoder.embed")(
    arguments(positions=lambda positions: positions + (positions.shape[1] == 1))
)


@fault(14, "positions after the prompt are one too high in the plain engine", PLAIN_GENERATION, "models.plain._inputs")
def _(inputs):
    def replacement(model, ids, attention_mask):
        found = inputs(model, ids, attention_mask)
        if ids.shape[1] < attention_mask.shape[1]:
            found["position_ids"] += 1
        return found

    return replacement


fault(14, "the reward model reads one token of padding", "models/test_policy.py", "models.policy.RewardModel.forward")(
    arguments(attention_mask=lambda mask: mask | F.pad(mask, (1, -1)))
)
fault(14, "the reward model reads all padding", "models/test_policy.py", "models.policy.RewardModel.forward")(
    arguments(attention_mask=torch.ones_like)
)


@fault(14, "the score lands one past an early end token", "maths/test_advantages.py", "maths.advantages.token_rewards")
def _(token_rewards):
    def replacement(scores, kl, response_mask, kl_coef):
        rewards = token_rewards(torch.zeros_like(scores), kl, response_mask, kl_coef)
        place = response_mask.sum(1, keepdim=True).clamp(max=response_mask.shape[1] - 1)
        return rewards.scatter_add(1, place, scores[:, None])

    return replacement


fault(14, "positions of packed texts run on", "models/fast/test_packing.py", "models.fast.packing.pack")(
    result(lambda packed, *_: replace(packed, position_ids=torch.arange(packed.ids.shape[1]).expand(packed.ids.shape)))
)
fault(14, "packed texts attend to one another", "models/fast/test_packing.py", "models.fast.packing.pack")(
    result(lambda packed, *_: replace(packed, mask=torch.ones_like(packed.mask).tril()))
)
fault(
    14,
    "padding is attended to in sampling",
    "models/fast/test_decoder.py",
    "models.fast.decoder.run_layers",
    "models.fast.decoder.top_states",
)(arguments(mask=lambda mask: torch.ones_like(mask).tril(mask.shape[3] - mask.shape[2])))


@fault(14, "rows that go on take the places of those that have left", "proofs/test_equalities.py", DECODE)
def _(generate):
    def replacement(*args, **kwargs):
        responses, outputs = generate(*args, **kwargs)
        ids = responses.ids.clone()
        for column in range(-responses.response_mask.shape[1], 0):
            running = responses.response_mask[:, column]
            ids[: running.sum(), column] = responses.ids[running, column]
        return replace(responses, ids=ids), outputs

    return replacement


fault(
    14,
    "rows that go on take the cache of those that have left",
    "models/fast/test_decoder.py",
    "models.fast.decoder.Decoder.select",
)(arguments(rows=lambda rows: torch.arange(len(rows))))


def _outputs(change):
    """Builds a replacement of the fast `generate` that changes the kept outputs (B, T, D) of each depth."""
    return result(lambda found, *_: (found[0], [change(states.clone(), found[0]) for states in found[1]]))


def _one_column_early(states, responses):
    """Outputs of which those of the response lie one column to the left."""
    start = responses.prompt_mask.shape[1]
    states[:, start - 1 : -1] = states[:, start:].clone()
    return states


def _without_last_token(ended):
    """Outputs without that of the last token of the responses that have ended, or of those that have not."""

    def change(states, responses):
        last = responses.prompt_mask.shape[1] + responses.response_mask.sum(1) - 1
        rows = (responses.ended == ended).nonzero().squeeze(1)
        states[rows, last[rows]] = 0
        return states

    return change


fault(14, "activations of sampled tokens lie one column early", ACTIVATIONS_OF_RESPONSES, DECODE)(
    _outputs(_one_column_early)
)
fault(14, "activations of sampled tokens lie in other rows", ACTIVATIONS_OF_RESPONSES, DECODE)(
    _outputs(lambda states, _: states.roll(1, 0))
)
fault(14, "the end token leaves no activations", ACTIVATIONS_OF_RESPONSES, DECODE)(_outputs(_without_last_token(True)))
fault(14, "the token at the length limit leaves no activations", ACTIVATIONS_OF_RESPONSES, DECODE)(
    _outputs(_without_last_token(False))
)
fault(
    14,
    "activations of a text are given to another",
    "models/fast/test_activations.py",
    "models.fast.activations.ActivationCache.get",
)(arguments(texts=sorted))
fault(
    14,
    "activations of texts that differ in one token are the same",
    "models/fast/test_activations.py",
    "models.fast.activations.key",
)(arguments(ids=lambda ids: np.append(np.asarray(ids)[:-1], 0)))
fault(
    14, "activations of layers that learn are kept", "models/fast/test_families.py", "models.fast.families.frozen_depth"
)(lambda frozen_depth: lambda lm: len(layers(lm)))
fault(
    14, "a reward model with other layers reads the policy's activations", SHARED, "models.fast.families.common_depth"
)(lambda common_depth: lambda lm, other: len(layers(lm)))
fault(14, "minibatches mix the rows of texts and of advantages", "test_batches.py", "batches.select_rows")(
    lambda select_rows: (
        lambda batch, rows: select_rows(batch, rows.sort().values if isinstance(batch, Responses) else rows)
    )
)


# 15. Every token, or every record, has the same weight.
def _mean_of_rows(loss, *tensors):
    """The mean of the means of the rows, as (sum, count)."""
    rows = [loss(*(x[i : i + 1] for x in tensors)) for i in range(len(tensors[0]))]
    count = sum(number for _, number in rows)
    return torch.stack([total / number for total, number in rows]).mean() * count, count


fault(15, "masked mean: a mean of row means", "maths/test_masked.py", "maths.masked.masked_mean")(
    lambda masked_mean: lambda x, mask: (x.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)).mean()
)
fault(15, "SFT loss: a mean of row means", "maths/test_losses.py", "maths.losses.causal_lm_loss")(
    lambda causal_lm_loss: lambda *tensors: _mean_of_rows(causal_lm_loss, *tensors)
)


@fault(15, "perplexity: a mean of batch means", "algorithms/test_sft.py", "algorithms.sft.perplexity")
def _(perplexity):
    def replacement(policy, pairs, *rest):
        parts = [perplexity(policy, pairs[i : i + 2], *rest) for i in range(0, len(pairs), 2)]
        return math.exp(sum(math.log(part) for part in parts) / len(parts))

    return replacement


@fault(15, "PPO loss: a mean of row means", "proofs/test_equalities.py", "maths.losses.policy_loss")
def _(policy_loss):
    def replacement(logprobs, old_logprobs, advantages, response_mask, clip_range):
        tensors = (logprobs, old_logprobs, advantages, response_mask)
        _, stats = policy_loss(*tensors, clip_range)
        return _mean_of_rows(lambda *row: policy_loss(*row, clip_range)[0], *tensors), stats

    return replacement


fault(15, "value loss: padding counts in the denominator", "proofs/test_equalities.py", "maths.losses.value_loss")(
    result(lambda loss, values, old, returns, mask, clip: (loss[0] * mask.sum() / mask.numel(), loss[1]))
)


@fault(15, "microbatches: a mean of their means", MEAN_OVER_TOKENS, "training.optimizer.accumulate")
def _(accumulate):
    def replacement(batch, microbatch_size, loss, count, where, model=None):
        parts = -(-number_of_rows(batch) // microbatch_size) if microbatch_size else 1

        def weighted(part):
            (total, number), stats = loss(part)
            return (total / number * count / parts, number), stats

        return accumulate(batch, microbatch_size, weighted, count, where, model)

    return replacement


# 16. The direction of KL.
def swapped(original):
    """A replacement with its two arguments swapped."""
    return lambda first, second: original(second, first)


fault(16, "k1 with its sign reversed", "proofs/test_estimators.py", "maths.kl.kl_k1")(swapped)
fault(16, "k3 with its arguments swapped", "proofs/test_estimators.py", "maths.kl.kl_k3")(swapped)
fault(16, "KL(reference || policy) in rollouts", "proofs/test_estimators.py", "models.plain.kl_of_logprobs")(swapped)
fault(16, "KL(reference || policy) in the evaluation", ANSWERS, "models.plain.kl_of_logprobs")(swapped)
fault(16, "the penalty rewards distance", PPO_GRADIENT, "maths.advantages.token_rewards")(
    arguments(kl_coef=lambda kl_coef: -kl_coef)
)
fault(16, "the penalty of REINFORCE rewards distance", REINFORCE_GRADIENT, "algorithms.reinforce.reinforce_advantages")(
    arguments(kl_coef=lambda kl_coef: -kl_coef)
)
fault(16, "the logged k1 with its sign reversed", SCHEDULES, "training.rollouts.StepReport")(
    arguments(metrics=lambda metrics: metrics | {"kl_k1": -metrics["kl_k1"]})
)

# 17. Small errors of arithmetic.
fault(17, "advantages wrong by a thousandth of lam", "maths/test_advantages.py", "maths.advantages.gae")(
    arguments(lam=lambda lam: 0.999 * lam)
)
fault(17, "the score wrong by a thousandth", "maths/test_advantages.py", "maths.advantages.token_rewards")(
    arguments(scores=lambda scores: 1.001 * scores)
)
fault(17, "the value loss wrong by a thousandth", "maths/test_losses.py", "maths.losses.value_loss")(
    result(lambda loss, *_: (1.001 * loss[0], loss[1]))
)
fault(17, "KL wrong by a thousandth", "maths/test_kl.py", "maths.kl.kl_of_logprobs")(result(lambda kl, *_: 1.001 * kl))
fault(17, "whitening with a large epsilon", "maths/test_masked.py", "maths.masked.whiten")(
    result(lambda white, x, mask: white * (masked_variance(x, mask) / (masked_variance(x, mask) + 1e-3)).sqrt())
)
fault(17, "the clip range wrong by a thousandth", "maths/test_losses.py", "maths.losses.policy_loss")(
    arguments(clip_range=lambda clip_range: 1.001 * clip_range)
)
fault(17, "the sampled gradient a tenth too small", PPO_GRADIENT, "maths.losses.policy_loss")(
    result(lambda found, *_: ((0.9 * found[0][0], found[0][1]), found[1]))
)
fault(17, "the gradient of PPO wrong by a thousandth", EXPECTED_PPO, "maths.losses.policy_loss")(
    result(lambda found, *_: ((1.001 * found[0][0], found[0][1]), found[1]))
)

# 18. The reference does not move.
fault(18, "the reference is the policy", LATER, LOAD_MODELS)(
    result(lambda models, *_: replace(models, reference=models.policy.lm))
)
fault(18, "tied embeddings learn under frozen layers", "models/test_layers.py", "models.layers.freeze_lower_layers")(
    result(lambda _, lm, *rest: lm.get_input_embeddings().requires_grad_(True))
)
fault(18, "the reference shares the policy's trainable embeddings", LATER, LOAD_MODELS)(
    effect(lambda models: models.reference.set_input_embeddings(models.policy.lm.get_input_embeddings()))
)
fault(18, "the frozen layers learn", "models/test_layers.py", "models.layers.freeze_lower_layers")(
    result(lambda _, lm, *rest: layers(lm).requires_grad_(True))
)
fault(18, "a policy is compared by layers that it does not share", OTHER_POLICY, "models.fast.families.common_depth")(
    lambda common_depth: lambda lm, other: len(layers(lm))
)


@fault(18, "weights that learn are shared", "models/test_layers.py", "models.layers.share_weights")
def _(share_weights):
    def replacement(owner, other):
        owned = dict(owner.named_parameters())
        for full, own in list(other.named_parameters()):
            if full in owned and torch.equal(owned[full], own):
                parent, _, last = full.rpartition(".")
                setattr(other.get_submodule(parent), last, owned[full])

    return replacement


# 20. Gradients are at p.grad, and master weights are what is saved.
fault(20, "the gradient of a tied embedding from its input is lost", TIED, "models.fast.families.embed")(
    arguments(weight=lambda weight: None if weight is None else weight.detach())
)
fault(20, "the gradient of the output embedding is not at p.grad", EVERY_GRADIENT, f"{HEAD_LOGPROBS}.backward")(
    result(lambda gradients, ctx, gradient: (gradients[0], None, *gradients[2:]))
)


@fault(20, "master weights are not updated", "models/fast/test_optimizer.py", f"{SLICED}.step")
def _(step):
    def replacement(self, closure=None, scale=1.0):
        masters = [state["master"] for state in self.state.values() if "master" in state]
        before = [master.clone() for master in masters]
        step(self, closure, scale)
        for master, old in zip(masters, before, strict=True):
            master.copy_(old)

    return replacement


@fault(20, "rounded weights are saved in place of master weights", STEP, "models.fast.engine.FastEngine.restore")
def _(restore):
    @torch.no_grad()
    def replacement(self, model, optimizer, source):
        rounded = [p.detach().float() for p in model.parameters()]
        restore(self, model, optimizer, source)
        for parameter, value in zip(model.parameters(), rounded, strict=True):
            parameter.copy_(value)

    return replacement


fault(20, "master weights are not in checkpoints", "models/fast/test_optimizer.py", "training.checkpoint._tensors")(
    result(lambda tensors, *_: {name: x for name, x in tensors.items() if not name.startswith("optimizer/master/")})
)


# 21. A mask that says where to attend is not added to the attention logits.
@fault(21, "a boolean mask is added to the attention logits", ENGINE, "models.fast.families._arguments")
def _(arguments_of):
    def replacement(lm, hidden, mask, positions, cache):
        found = arguments_of(lm, hidden, mask, positions, cache)
        return found | {"attention_mask": mask} if lm.config._attn_implementation == "eager" else found

    return replacement


# 25. A baseline that includes the response itself: r - mean(r), which is (n - 1) / n of what it should be.
fault(
    25, "the baseline of a response includes itself", REINFORCE_GRADIENT, "algorithms.reinforce.reinforce_advantages"
)(result(lambda advantages, *_: advantages * (len(advantages) - 1) / len(advantages)))


# 27. The gradient of an estimate of KL is not an estimate of the gradient of KL.
@fault(
    27, "k3 in the loss in place of KL in the reward", SAMPLED_GRADIENT, "algorithms.reinforce.reinforce_advantages",
    "algorithms.reinforce.reinforce_loss"
)  # fmt: skip
def _(reinforce_advantages, reinforce_loss):
    coefs = []

    def without_kl(rollout, kl_coef):
        coefs.append(kl_coef)
        return reinforce_advantages(rollout, 0.0)

    def with_k3(policy, batch, temperature):
        (loss, count), stats = reinforce_loss(policy, batch, temperature)
        responses = batch.rollout.responses
        mask = responses.response_mask
        logprobs, _ = policy(responses.ids, responses.attention_mask, mask, temperature)
        return (loss + coefs[-1] * masked_sum(kl_k3(logprobs, batch.rollout.ref_logprobs), mask), count), stats

    return without_kl, with_k3


# 28. The objective is a sum over the tokens of a response.
def _by_length(batch: ReinforceBatch) -> ReinforceBatch:
    return replace(batch, advantages=batch.advantages / batch.rollout.responses.response_mask.sum(1))


fault(28, "a mean over the tokens of a response", REINFORCE_GRADIENT, "algorithms.reinforce.reinforce_loss")(
    arguments(batch=_by_length)
)


# 25, of groups: the same with several responses to one prompt.
fault(
    25, "the baseline of a group includes the response itself",
    "proofs/test_groups.py::test_the_expected_gradient_of_rloo_is_the_exact_one", "maths.advantages.leave_one_out"
)(result(lambda advantages, rewards, size: advantages * (size - 1) / size))  # fmt: skip


# 30. Equal rewards have a standard deviation of rounding errors, which a division makes as large as any difference.
@fault(
    30, "advantages of a group with equal rewards", "algorithms/test_groups.py::test_equal_rewards_teach_nothing",
    "maths.advantages.group_advantages"
)  # fmt: skip
def _(group_advantages):
    def replacement(rewards, group_size, *, scale):
        groups = rewards.view(-1, group_size)
        centred = groups - groups.mean(1, keepdim=True)
        return (centred / (groups.std(1, keepdim=True) + 1e-8) if scale else centred).flatten()

    return replacement


# 30, of groups of two: the deviation is that of a sample, with n - 1.
GRPO_GRADIENT = "proofs/test_groups.py::test_the_expected_gradient_of_grpo_has_a_closed_form"
fault(30, "the deviation of a group is that of a population", GRPO_GRADIENT, "maths.advantages.group_advantages")(
    result(lambda found, rewards, size, scale: found * (size / (size - 1)) ** 0.5 if scale else found)
)
fault(30, "a group is always divided by its deviation", GRPO_GRADIENT, "maths.advantages.group_advantages")(
    arguments(scale=lambda scale: True)
)


# 31. A token of a long response counts less than one of a short response.
fault(
    31, "a group's loss is a mean over each response",
    "proofs/test_groups.py::test_the_expected_gradient_of_grpo_is_the_exact_one_but_for_a_factor",
    "algorithms.grpo.grpo_batch"
)(arguments(settings=lambda settings: replace(settings, normalise="sequence")))  # fmt: skip


fault(
    31,
    "the penalty in the loss is a sum over each response",
    "algorithms/test_groups.py::test_a_token_has_the_same_share_of_the_penalty_as_of_the_loss",
    "training.rollouts.penalised_loss",
)(arguments(objective=lambda objective: replace(objective, token_divisor=lambda batch, settings: torch.ones(1))))


# 32. DPO's pairs the wrong way round, without the reference, or with that of the other response.
WHOLE_DPO = "proofs/test_preferences.py::test_the_whole_of_dpo_has_the_exact_gradient_of_its_objective"
for what, change in {
    "chosen and rejected are swapped": lambda batch: replace(batch, weight=1 - batch.weight),
    "without the reference": lambda batch: replace(batch, reference=torch.zeros_like(batch.reference)),
    "the references are swapped": lambda batch: replace(batch, reference=batch.reference.flip(1)),
}.items():
    fault(32, f"DPO: {what}", WHOLE_DPO, "algorithms.dpo.pair_loss")(arguments(batch=change))


@fault(32, "DPO: label smoothing is left out", WHOLE_DPO, "maths.losses.dpo_loss")
def _(dpo_loss):
    return lambda margins, weight, beta, label_smoothing=0.0: dpo_loss(margins, weight, beta)


@fault(32, "DPO: label smoothing is on the wrong side", WHOLE_DPO, "maths.losses.dpo_loss")
def _(dpo_loss):
    def replacement(margins, weight, beta, label_smoothing=0.0):
        return dpo_loss(margins, weight, beta, 1 - label_smoothing if label_smoothing else 0.0)

    return replacement


# 33. DPO sums over a response; a mean is another objective.
fault(33, "DPO compares means", WHOLE_DPO, "algorithms.dpo.response_nats")(
    result(lambda nats, policy, ids, attention_mask, loss_mask, *_: nats / loss_mask.sum(1))
)


# 37. IPO and SimPO. The margin at which IPO's loss is smallest is 1 / (2 beta).
fault(37, "IPO: the target is 1 / beta", WHOLE_DPO, "maths.losses.ipo_loss")(arguments(beta=lambda beta: beta / 2))
fault(37, "SimPO: the margin has the wrong sign", WHOLE_DPO, "maths.losses.simpo_loss")(
    arguments(gamma=lambda gamma: -gamma)
)


@fault(37, "SimPO: sums over the tokens", WHOLE_DPO, "algorithms.dpo.pair_loss")
def _(pair_loss):
    def replacement(policy, batch, settings):
        def summed(ids, attention_mask, response_mask, temperature):
            logprobs, values = policy(ids, attention_mask, response_mask, temperature)
            return logprobs * response_mask.sum(1, keepdim=True), values

        return pair_loss(summed if settings.loss == "simpo" else policy, batch, settings)

    return replacement


# 34. The gradient of k3 is that of the other KL.
fault(
    34, "k3 in the loss is taken for KL", "algorithms/test_groups.py::test_a_biased_gradient_is_named_before_training",
    "maths.kl.bias"
)(result(lambda line, estimator, *_: "" if estimator == "k3" else line))  # fmt: skip
fault(
    34, "the estimate over the vocabulary is k3",
    "proofs/test_groups.py::test_what_the_gradient_of_each_estimate_of_kl_is", "models.plain.TokenFigures.estimate"
)(lambda estimate: lambda self, name: estimate(self, "k3" if name == "full" else name))  # fmt: skip


# 35. KTO compares with the KL of responses to other prompts, which learns nothing from its gradient.
MISMATCHED = (
    "proofs/test_preferences.py::"
    "test_what_kto_compares_with_is_the_mean_log_ratio_of_the_mismatched_pairs_and_never_below_0"
)
fault(
    35, "KTO measures the KL on the responses that it learns from", MISMATCHED, "algorithms.kto.mismatched"
)(lambda mismatched: lambda texts, limit: list(texts))  # fmt: skip
fault(35, "KTO measures the KL of the reference from the policy", MISMATCHED, "algorithms.kto.kl_of_mismatched")(
    lambda kl_of_mismatched: (
        lambda policy, reference, *rest: kl_of_mismatched(
            Policy(reference, policy.engine, value_head=False), policy.lm, *rest
        )
    )
)
fault(
    35, "KTO: good and bad are swapped",
    "proofs/test_preferences.py::test_the_whole_of_kto_has_the_exact_gradient_of_its_objective",
    "algorithms.kto.marked_loss"
)(arguments(batch=lambda batch: replace(batch, mark=1 - batch.mark)))  # fmt: skip


# 36. The best of a group is that with the highest score.
fault(
    36, "best-of-n imitates the first response",
    "proofs/test_preferences.py::test_best_of_n_imitates_the_distribution_of_the_best", "algorithms.best_of_n.kept"
)(lambda kept: lambda groups, keep, seed: [group[0].text for group in groups])  # fmt: skip


# A reward is a function of (prompts, responses).
fault(29, "a custom reward gets responses as prompts", "proofs/test_faults.py", "rewards.FunctionReward.__call__")(
    lambda call: (
        lambda self, responses: call(
            FunctionReward(lambda prompts, texts: self.function(texts, prompts), self.tokenizer), responses
        )
    )
)
