import copy
import math

import pytest
import torch
from tiny import make_family, padded_texts, some_responses
from transformers import GPT2ForSequenceClassification

from plaudit.algorithms.ppo import PPOBatch, number_of_tokens, ppo_loss
from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_loss
from plaudit.algorithms.reward_model import preference_loss
from plaudit.algorithms.sft import number_of_targets, sft_loss
from plaudit.batches import JudgedBatch, Rollout, Sequences, number_of_rows
from plaudit.config import build
from plaudit.errors import TrainingError
from plaudit.maths.masked import whiten
from plaudit.models.fast.engine import FastEngine
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.training.optimizer import accumulate, adamw, set_lr, step, take_notes, warmup_then_linear


class Network(torch.nn.Sequential):
    """Layers with an engine, as `adamw` and `step` ask for."""

    engine = PlainEngine()


def linear(*sizes, bias=True):
    return Network(torch.nn.Linear(*sizes, bias=bias))


def test_the_learning_rate_rises_then_falls_and_reaches_its_peak_once():
    shares = [warmup_then_linear(s, 10, 0.2) for s in range(10)]
    assert shares[:2] == [0.5, 1.0]
    assert shares[2:] == pytest.approx([8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])


def test_vectors_are_not_decayed():
    network = linear(2, 2)
    weight, bias = network[0].weight, network[0].bias
    optimizer = adamw(network, lr=0.1, weight_decay=0.5)
    with torch.no_grad():
        weight.fill_(1.0), bias.fill_(1.0)
    (network(torch.zeros(1, 2)).sum() * 0).backward()
    step(optimizer, network, 1.0, "here")
    assert bias.tolist() == [1.0, 1.0]
    assert weight.flatten().tolist() == pytest.approx([0.95] * 4)


def test_the_learning_rate_is_set_for_every_group():
    network = linear(1, 1)
    optimizer = adamw(network, lr=1.0)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_what_is_frozen_is_left_out():
    network = linear(2, 2)
    network[0].weight.requires_grad_(False)
    optimizer = adamw(network, lr=0.1)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [network[0].bias]


def test_gradients_are_clipped_and_the_norm_before_is_returned():
    network = linear(1, 1, bias=False)
    optimizer = adamw(network, lr=1.0)
    network(torch.tensor([[30.0]])).sum().backward()
    assert step(optimizer, network, 2.0, "here") == pytest.approx(30.0)
    assert optimizer.state[network[0].weight]["exp_avg"].item() == pytest.approx(0.1 * 2.0, rel=1e-5)
    assert network[0].weight.grad is None


def test_a_small_gradient_is_not_scaled():
    network = linear(1, 1, bias=False)
    optimizer = adamw(network, lr=1.0)
    network(torch.tensor([[1.5]])).sum().backward()
    assert step(optimizer, network, 2.0, "here") == pytest.approx(1.5)
    assert optimizer.state[network[0].weight]["exp_avg"].item() == pytest.approx(0.1 * 1.5, rel=1e-5)


def test_a_gradient_that_is_not_finite_changes_nothing():
    network = Network(torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1))]))
    weight = network[0][0]
    optimizer = adamw(network, lr=0.1)
    weight.sqrt().sum().backward()  # the slope of sqrt at 0 is infinite
    with pytest.raises(
        TrainingError, match=r"ppo iteration 3: the gradient norm is inf, in that of '0.0'; lower the learning rate"
    ):
        step(optimizer, network, 1.0, "ppo iteration 3")
    assert weight.item() == 0.0
    assert weight.grad is None
    assert weight not in optimizer.state


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_before_it_reaches_a_gradient(bad):
    network = linear(1, 1)

    def loss(batch):
        return (network(torch.tensor([[bad]])).sum(), torch.tensor(1)), {}

    with pytest.raises(TrainingError, match=r"sft step 3: the loss is (nan|-?inf); lower the learning rate"):
        accumulate(labelled(), 0, loss, 1, "sft step 3")
    assert network[0].weight.grad is None


# Gradient accumulation: nine rows of unequal length in microbatches of 2, 4 and 8 (the last is smaller) and of 1.

ROWS = 9
MICROBATCHES = [1, 2, 4, 8, 9, 20]
PPO = build({"ppo.clip_range": 0.1, "ppo.value_clip": 0.05, "ppo.temperature": 0.7}).ppo


def sequences(seed=0):
    ids, mask = padded_texts([9, 2, 6, 12, 3, 5, 7, 4, 11])
    ids = ids.roll(seed, 0)
    return Sequences(ids, mask, mask & (torch.arange(12) >= 1))


def judged(*rolls, weights, texts=None):
    """Nine judgements of a text for each roll, or of the given numbers of texts."""
    sides = [sequences(roll) for roll in rolls]
    mask = torch.stack([side.attention_mask for side in sides], 1)
    if texts:
        mask &= (torch.arange(len(rolls)) < torch.tensor(texts)[:, None])[..., None]
    return JudgedBatch(torch.stack([s.ids for s in sides], 1), mask, torch.tensor(weights), torch.arange(9.0) / 10)


def labelled():
    return judged(0, weights=[1.0, 0, 0, 1, 1, 0, 1, 0.3, 0])


def compared():
    return judged(0, 3, weights=[1.0, 0, 0.5, 1, 1, 0, 1, 0.5, 0])


def ranked():
    return judged(0, 3, 5, weights=[1.0] * 9, texts=[3, 2, 3, 3, 2, 2, 3, 2, 3])


def rollout():
    """Nine responses, a few of them repeated, with log-probabilities at rollout time that the policy has moved from."""
    some, rows = some_responses(), torch.tensor([0, 1, 2, 3, 4, 5, 3, 1, 2])
    responses = type(some)(some.ids[rows], some.attention_mask[rows], some.response_mask[rows], some.ended[rows])
    mask, generator = responses.response_mask, torch.Generator().manual_seed(0)
    exact, _ = make_policy(PlainEngine())(responses.ids, responses.attention_mask, mask, PPO.temperature)
    noise = [0.2 * torch.randn(mask.shape, generator=generator).masked_fill(~mask, 0.0) for _ in range(5)]
    logprobs, ref_logprobs = exact.detach() + noise[0], exact.detach() + noise[1]
    raw = torch.randn(ROWS, generator=generator)
    return Rollout(
        responses, logprobs, ref_logprobs, noise[2].abs(), noise[3].abs(), logprobs - ref_logprobs, raw, raw
    ), noise


def ppo_batch():
    scored, noise = rollout()
    advantages = whiten(noise[3], scored.responses.response_mask)
    return PPOBatch(scored, noise[2], noise[0], advantages, noise[4])


def make_policy(engine):
    lm = make_family("gpt2")
    freeze_lower_layers(lm, 2)
    engine.prepare(lm)
    policy = Policy(lm, engine)
    with torch.no_grad():
        policy.value_head.weight.copy_(0.1 * torch.linspace(-1, 1, 16))
    return policy.eval()


def make_reward_model(engine):
    torch.manual_seed(0)
    config = copy.deepcopy(make_family("gpt2").config)
    config.num_labels, config.pad_token_id = 1, 63
    classifier = GPT2ForSequenceClassification(config).eval()
    engine.prepare(classifier)
    return RewardModel(classifier, engine)


LOSSES = {
    "sft": (make_policy, sequences, lambda model, batch: (sft_loss(model, batch), {}), number_of_targets),
    "labels": (make_reward_model, labelled, preference_loss, number_of_rows),
    "comparisons": (make_reward_model, compared, preference_loss, number_of_rows),
    "rankings": (make_reward_model, ranked, preference_loss, number_of_rows),
    "ppo": (make_policy, ppo_batch, lambda model, batch: ppo_loss(model, batch, PPO), number_of_tokens),
    "reinforce": (
        make_policy,
        lambda: ReinforceBatch(rollout()[0], torch.linspace(-1, 2, ROWS)),
        lambda model, batch: reinforce_loss(model, batch, PPO.temperature),
        number_of_rows,
    ),
}


def gradients_and_figures(name, engine, microbatch_size):
    make, batch_of, loss, count = LOSSES[name]
    model, batch = make(engine), batch_of()
    figures = accumulate(batch, microbatch_size, lambda part: loss(model, part), count(batch), "here")
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, figures


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_microbatches_give_the_gradients_and_figures_of_the_whole_batch(name, fast, tmp_path):
    def engine():
        return FastEngine(torch.float32, tmp_path) if fast else PlainEngine()

    whole, figures = gradients_and_figures(name, engine(), 0)
    total = torch.nn.utils.get_total_norm(list(whole.values()))
    assert total > 0
    for size in MICROBATCHES:
        parts, part_figures = gradients_and_figures(name, engine(), size)
        assert part_figures == pytest.approx(figures, rel=1e-6, abs=1e-7), size
        assert parts.keys() == whole.keys()
        difference = torch.nn.utils.get_total_norm([parts[n] - whole[n] for n in whole])
        assert difference <= 1e-6 * total, size


def test_the_loss_of_a_batch_is_its_mean_over_tokens_by_hand():
    """Not the mean over rows, nor over microbatches of unequal numbers of tokens."""
    batch, policy = sequences(), make_policy(PlainEngine())
    _, figures = gradients_and_figures("sft", PlainEngine(), 4)
    nats, tokens = 0.0, 0
    for ids, mask in zip(batch.ids, batch.attention_mask, strict=True):
        logp = torch.log_softmax(policy.lm(ids[mask][None]).logits[0], -1)
        nats -= logp[:-1].gather(1, ids[mask][1:, None]).sum().item()
        tokens += int(mask.sum()) - 1
    assert figures["loss"] == pytest.approx(nats / tokens, rel=1e-5)


def test_a_maximum_is_taken_over_the_microbatches():
    """And its means are means over tokens: the ratio's, by hand."""
    batch, policy = ppo_batch(), make_policy(PlainEngine())
    responses = batch.rollout.responses
    mask = responses.response_mask
    with torch.no_grad():
        logprobs, _ = policy(responses.ids, responses.attention_mask, mask, PPO.temperature)
    ratio = (logprobs - batch.rollout.logprobs)[mask].exp()
    _, figures = gradients_and_figures("ppo", PlainEngine(), 2)
    assert figures["ratio_max"] == pytest.approx(ratio.max().item(), rel=1e-4)
    assert figures["ratio_mean"] == pytest.approx(ratio.mean().item(), rel=1e-4)
    assert figures["clip_fraction"] == pytest.approx(((ratio - 1).abs() > 0.1).float().mean().item())
    assert 0 < figures["clip_fraction"] < 1


# Memory that runs out.

ERRORS = {
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
    ),
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": MemoryError(),
}


def with_room_for(rows, name, model, error, tried):
    _, _, loss, _ = LOSSES[name]

    def limited(part):
        tried.append(number_of_rows(part))
        (total, count), stats = loss(model, part)
        if tried[-1] > rows:
            total.backward()  # memory may run out in the backward pass, when some gradients are there already
            raise error
        return (total, count), stats

    return limited


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(("room", "size"), [(8, 4), (4, 4), (3, 2), (1, 1)])
def test_where_memory_runs_out_the_microbatch_is_halved_and_the_gradients_are_the_same(error, room, size):
    for name in LOSSES:
        make, batch_of, _, count = LOSSES[name]
        whole, figures = gradients_and_figures(name, PlainEngine(), 0)
        model, batch, tried = make(PlainEngine()), batch_of(), []
        loss = with_room_for(room, name, model, error, tried)
        found = accumulate(batch, 0, loss, count(batch), "sft step 5", model)
        assert found == pytest.approx(figures, rel=1e-5, abs=1e-6)
        for n, p in model.named_parameters():
            if p.grad is not None:
                assert torch.allclose(p.grad, whole[n], rtol=1e-4, atol=1e-6), n
        assert tried[-1] <= size
        notes = take_notes(model)
        assert notes[-1] == (
            f"sft step 5: out of memory, so microbatches have at most {size} rows from now on; the result is the same"
        )
        assert take_notes(model) == ()
        tried.clear()
        accumulate(batch, 0, loss, count(batch), "sft step 6", model)
        assert max(tried) == size  # not tried again


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_one_row_for_which_there_is_no_memory_is_an_error_in_one_line(error):
    model = make_policy(PlainEngine())
    loss = with_room_for(0, "sft", model, error, [])
    with pytest.raises(TrainingError, match=r"^sft step 5: out of memory with 1 row in a microbatch; lower max_tokens"):
        accumulate(sequences(), 0, loss, number_of_targets(sequences()), "sft step 5", model)


def test_another_error_of_the_loss_is_not_taken_for_a_lack_of_memory():
    def loss(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        accumulate(sequences(), 0, loss, 1, "here", make_policy(PlainEngine()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["lm.transformer.h.2.mlp.c_fc.weight", "lm.transformer.ln_f.bias"])
def test_weights_that_are_not_finite_are_named(name, bad):
    model, batch = make_policy(PlainEngine()), sequences()
    with torch.no_grad():
        model.get_parameter(name).flatten()[0] = bad
    with pytest.raises(TrainingError, match=f"^sft step 2: the loss is nan; the weights '{name}' are not finite$"):
        accumulate(batch, 0, lambda b: (sft_loss(model, b), {}), number_of_targets(batch), "sft step 2", model)
