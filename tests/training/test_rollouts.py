import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny import make_lm
from torch import nn

from plaudit import rng
from plaudit.algorithms.grpo import grpo
from plaudit.algorithms.ppo import ppo
from plaudit.errors import ModelError
from plaudit.models.fast.engine import FastEngine
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.training import dist
from plaudit.training.optimizer import update
from plaudit.training.prompts import check_window, prompts_of
from plaudit.training.rollouts import ScoreScale, generate, score_rollout

SCALE = ScoreScale(mean=0.5, std=2.0, missing_eos_penalty=1.5)


@pytest.fixture(params=["plain", "fast"])
def engine(request, tmp_path):
    return PlainEngine() if request.param == "plain" else FastEngine(torch.float32, tmp_path)


def test_scores_are_normalised_and_a_response_that_was_cut_off_loses_the_penalty():
    raw, ended = torch.tensor([0.5, 4.5, 9.5, -9.5]), torch.tensor([True, True, False, False])
    assert SCALE.scores(raw, ended).tolist() == [0.0, 2.0, 3.0, -6.5]


@pytest.mark.parametrize("worth", [-50.0, -3.0, -1.0, 0.0, 2.0, 50.0])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 4.0])
def test_being_cut_off_never_pays_whatever_the_response_is_worth(worth, penalty):
    ended, cut = ScoreScale(0.0, 1.0, penalty).scores(torch.tensor([worth, worth]), torch.tensor([True, False]))
    assert cut == ended - penalty


def test_scores_of_the_responses_that_the_scale_was_measured_on_are_standard():
    raw = torch.tensor([1.0, 3.0, 5.0, 11.0])
    scores = ScoreScale.measured(raw, 1.0).scores(raw, torch.ones(4, dtype=torch.bool))
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.std().item() == pytest.approx(1, abs=1e-6)


def test_a_rollout_has_the_logprobs_kl_and_entropy_of_each_text_alone(engine, tiny_tokenizer):
    lm, reference = make_lm(seed=0).eval(), make_lm(seed=1).eval()
    policy = Policy(lm, engine)
    noise = rng.uniforms(range(6), 9, 0, "test", 0, "noise")
    responses = generate(policy, [[0, 5, 6, 7], [0, 9], [0, 21, 22]] * 2, noise, tiny_tokenizer, 0.8)
    raw = torch.arange(6).float()
    rollout, states = score_rollout(policy, reference, responses, raw, SCALE, 0.8)
    assert torch.equal(rollout.raw_scores, raw)
    assert torch.equal(rollout.scores, SCALE.scores(raw, responses.ended))
    assert len(states) == responses.response_mask.sum()
    with torch.no_grad():
        for row in range(6):
            ids = responses.ids[row][responses.attention_mask[row]][None]
            n = int(responses.response_mask[row].sum())
            logp, ref = ((m(ids).logits[0, -n - 1 : -1] / 0.8).log_softmax(-1) for m in (lm, reference))
            tokens = ids[0, -n:, None]
            kl = [
                sum(math.exp(p) * (p - q) for p, q in zip(a, b, strict=True))
                for a, b in zip(logp.tolist(), ref.tolist(), strict=True)
            ]
            entropy = [-sum(math.exp(p) * p for p in a) for a in logp.tolist()]
            expected = {
                "logprobs": logp.gather(1, tokens)[:, 0].tolist(),
                "ref_logprobs": ref.gather(1, tokens)[:, 0].tolist(),
                "kl": kl,
                "entropy": entropy,
            }
            for name, values in expected.items():
                assert getattr(rollout, name)[row, :n].tolist() == pytest.approx(values, abs=2e-4), name
                assert (getattr(rollout, name)[row, n:] == 0).all(), name


@pytest.mark.parametrize("train_layers", [0, 1])
def test_a_response_is_cut_at_its_own_limit_and_keeps_its_tokens_and_their_log_probabilities(
    engine, tiny_tokenizer, train_layers
):
    lm, tokenizer = make_lm().eval(), dataclasses.replace(tiny_tokenizer, other_end_ids=tuple(range(240, 300)))
    if train_layers:
        lm.requires_grad_(False)
        lm.transformer.h[1].requires_grad_(True)
        engine.prepare(lm)  # the fast engine caches activations of the frozen layer
    policy = Policy(lm, engine)
    prompts = [[0, 5, 6, 7], [0, 9], [0, 21, 22]] * 6
    arguments = range(18), 9, 0, "test", 0, "noise"
    whole = generate(policy, prompts, rng.uniforms(*arguments), tokenizer, 0.6).tokens()
    noise = rng.uniforms(*arguments, 2)
    limits = (~noise.isnan()).sum(1).tolist()
    responses = generate(policy, prompts, noise, tokenizer, 0.6)
    assert responses.tokens() == [tokens[:limit] for tokens, limit in zip(whole, limits, strict=True)]
    assert responses.prompts() == prompts
    assert responses.ended.tolist() == [
        tokens[-1] in tokenizer.end_ids and len(tokens) <= limit for tokens, limit in zip(whole, limits, strict=True)
    ]
    assert 0 < responses.ended.sum() < 18
    assert (responses.response_ids[~responses.response_mask] == tiny_tokenizer.pad_id).all()
    found = engine.compare(lm, lm, responses, 0.6).logprobs.split(responses.response_mask.sum(1).tolist())
    with torch.no_grad():
        for logprobs, prompt, tokens in zip(found, prompts, responses.tokens(), strict=True):
            logp = (lm(torch.tensor([prompt + tokens])).logits[0, -len(tokens) - 1 : -1] / 0.6).log_softmax(-1)
            torch.testing.assert_close(logprobs, logp[range(len(tokens)), tokens], rtol=0, atol=1e-4)


def test_a_policy_that_is_the_reference_has_no_kl(engine, tiny_tokenizer):
    lm = make_lm().eval()
    policy = Policy(lm, engine)
    noise = rng.uniforms(range(2), 6, 0, "test", 0, "noise")
    responses = generate(policy, [[0, 5], [0, 6, 7]], noise, tiny_tokenizer, 0.7)
    rollout, _ = score_rollout(policy, lm, responses, torch.zeros(2), SCALE, 0.7)
    assert rollout.kl.abs().max().item() < 1e-6
    torch.testing.assert_close(rollout.logprobs, rollout.ref_logprobs, rtol=0, atol=0)


class Point(Policy):
    """A model with one weight."""

    def __init__(self):
        nn.Module.__init__(self)
        self.weight, self.engine = nn.Parameter(torch.zeros(1)), PlainEngine()


@dataclass(frozen=True)
class Targets:
    values: torch.Tensor


@dataclass(frozen=True)
class Settings:
    minibatch_size: int = 4
    microbatch_size: int = 0
    max_grad_norm: float = 1e9


def updated(settings=Settings(), stop=None, epochs=3):
    """The model after SGD on (weight - target)^2 / 2, what `update` returns, and the rows of each minibatch."""
    model, seen = Point(), []

    def loss(batch):
        seen.append(batch.values.tolist())
        losses = (model.weight - batch.values) ** 2 / 2
        distance = (model.weight - batch.values).abs().detach()
        return (losses.sum(), torch.tensor(len(losses))), {"distance": distance.sum(), "distance_max": distance.max()}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    orders = [np.random.default_rng(epoch).permutation(10) for epoch in range(epochs)]
    batch = Targets(torch.arange(10.0))
    stats = update(model, optimizer, batch, loss, lambda b: len(b.values), settings, orders, "test", stop)
    return model, stats, seen, orders


def test_every_row_is_learned_in_every_epoch_and_the_last_minibatch_may_be_smaller():
    _, stats, seen, orders = updated()
    assert stats["optimizer_steps"] == 9
    assert [len(rows) for rows in seen] == [4, 4, 2] * 3
    assert [[*seen[i], *seen[i + 1], *seen[i + 2]] for i in (0, 3, 6)] == [order.tolist() for order in orders]


@pytest.mark.parametrize("microbatch_size", [0, 1, 3])
def test_the_weights_are_those_of_gradient_descent_by_hand(microbatch_size):
    model, stats, _, orders = updated(Settings(microbatch_size=microbatch_size), epochs=1)
    weight, distances, norms = 0.0, [], []
    for rows in (orders[0][:4], orders[0][4:8], orders[0][8:]):
        distances.append([abs(weight - row) for row in rows])
        gradient = np.mean([weight - row for row in rows])
        norms.append(abs(gradient))
        weight -= 0.5 * gradient
    assert model.weight.item() == pytest.approx(weight, rel=1e-5)
    assert stats["distance"] == pytest.approx(np.mean([np.mean(d) for d in distances]), rel=1e-5)  # mean of steps
    assert stats["distance_max"] == pytest.approx(max(max(d) for d in distances), rel=1e-5)
    assert stats["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-5)


def test_an_update_ends_before_the_step_that_stop_rejects_and_the_first_is_always_taken():
    model, stats, seen, orders = updated(stop=("distance", 0.0))
    assert stats["optimizer_steps"] == 1
    assert len(seen) == 2
    assert model.weight.item() == pytest.approx(0.5 * np.mean(orders[0][:4]))
    assert model.weight.grad is None


def test_gradients_are_clipped_to_their_largest_norm():
    model, stats, _, _ = updated(Settings(max_grad_norm=1e-3), epochs=1)
    assert model.weight.item() == pytest.approx(3 * 0.5 * 1e-3, rel=1e-3)
    assert stats["grad_norm"] > 1  # before clipping


def test_prompts_come_in_passes_each_in_its_own_order():
    prompts = list(range(10))
    drawn = [p for i in range(5) for p in prompts_of(i, prompts, 4, seed=1)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == prompts
    assert drawn[:10] != drawn[10:]


def test_a_prompt_that_leaves_no_room_is_refused_with_the_figures():
    check_window([[1] * 10], 54, 64)
    with pytest.raises(ModelError, match="11 tokens and a response of 54 do not fit into the model's window of 64"):
        check_window([[1] * 11], 54, 64)


@pytest.mark.parametrize(("algorithm", "exchanged"), [(ppo, {0, 1}), (grpo, {0})])
def test_hidden_states_are_exchanged_where_a_value_head_reads_them(algorithm, exchanged, bare_run, monkeypatch):
    number, gathered = [], dist.gathered

    def counted(rows, batch, measured, *states, pad_id):
        number.append(len(states))
        return gathered(rows, batch, measured, *states, pad_id=pad_id)

    monkeypatch.setattr(dist, "gathered", counted)
    next(algorithm(bare_run()))
    assert set(number) == exchanged  # none of the reference
    assert len(number) == 2
