"""Different ways to compute the same numbers: with and without a cache, padding, batches or microbatches."""

import numpy as np
import pytest
import torch
from tiny import GOOD, make_lm

from plaudit import rng
from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.ppo import compute_advantages, number_of_tokens, ppo_loss, rollout_values
from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_advantages, reinforce_loss
from plaudit.algorithms.reward_model import PreferenceExample, collate_examples, preference_loss
from plaudit.algorithms.sft import number_of_targets, sft_loss
from plaudit.batches import number_of_rows, split_rows
from plaudit.data.judgements import Judgement
from plaudit.models import plain
from plaudit.models.fast import generation
from plaudit.models.fast.engine import FastEngine
from plaudit.models.loading import load_reward_model
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import collate, pad_left
from plaudit.training.optimizer import accumulate
from plaudit.training.rollouts import ScoreScale, generate, score_rollout

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22], [0, 8, 8, 8, 8]] * 2
ROWS, LIMIT = len(PROMPTS), 10
LENGTHS = [1, 10, 2, 9, 3, 8, 1, 10]


@pytest.fixture(params=["plain", "fast"])
def engine(request, tmp_path):
    return PlainEngine() if request.param == "plain" else FastEngine(torch.float32, tmp_path)


@pytest.fixture
def noise():
    """Numbers that end the responses after LENGTHS tokens, or at the limit: token 0 is the end token."""
    numbers = rng.uniforms(range(ROWS), LIMIT, 0, "test", 0, "noise")
    for row, length in enumerate(LENGTHS):
        if length < LIMIT:
            numbers[row, length - 1] = 1e-9 * (row + 1)
    return numbers


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_sampled_from_the_distributions_that_are_scored(tiny_lm, engine, noise, temperature, monkeypatch):
    """Cache, left padding and batch, compared with one forward pass of transformers over each text alone."""
    engine.prepare(tiny_lm)
    sampled_from, draw = [{} for _ in PROMPTS], plain.sample_tokens

    def recorded(logits, u):
        for of_row, number in zip(logits, u, strict=True):
            row, column = (noise == number).nonzero()[0].tolist()
            sampled_from[row][column] = of_row.log_softmax(-1)
        return draw(logits, u)

    monkeypatch.setattr(plain, "sample_tokens", recorded)
    monkeypatch.setattr(generation, "sample_tokens", recorded)
    ids, mask = pad_left(PROMPTS, pad_id=255)
    out = engine.generate(tiny_lm, ids, mask, noise, end_ids=[0], pad_id=255, temperature=temperature)
    lengths = out.response_mask.sum(1).tolist()
    assert lengths == LENGTHS
    with torch.no_grad():
        logprobs, _ = engine.logprobs(tiny_lm, out.ids, out.attention_mask, out.response_mask, temperature)
        for row, ours in enumerate(logprobs.split(lengths)):
            n, response = lengths[row], out.tokens()[row]
            text = torch.tensor([[*PROMPTS[row], *response]])
            exact = (tiny_lm(text).logits[0, -n - 1 : -1] / temperature).log_softmax(-1)
            sampled = torch.stack([sampled_from[row][t] for t in range(n)])
            torch.testing.assert_close(sampled, exact, rtol=0, atol=1e-4)
            torch.testing.assert_close(ours, exact[range(n), response], rtol=0, atol=1e-4)


def test_a_response_does_not_depend_on_the_other_rows_of_its_batch(tiny_lm, engine, noise):
    engine.prepare(tiny_lm)
    ids, mask = pad_left(PROMPTS, pad_id=255)
    out = engine.generate(tiny_lm, ids, mask, noise, end_ids=[0], pad_id=255)
    assert out.response_mask.sum(1).tolist() == LENGTHS
    for row, (prompt, n) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        alone = engine.generate(tiny_lm, *pad_left([prompt], pad_id=255), noise[row : row + 1], end_ids=[0], pad_id=255)
        assert out.tokens()[row] == alone.tokens()[0]
        assert (out.response_ids[row, n:] == 255).all()
        assert out.ended[row] == alone.ended[0] == (n < LIMIT)


def test_scores_depend_neither_on_the_side_of_the_padding_nor_on_the_batch(tiny_model_folder, engine):
    classifier = load_reward_model(tiny_model_folder, pad_id=255).eval()
    engine.prepare(classifier)
    model = RewardModel(classifier, engine)
    texts = [[0, 5, 6, 7, 0], [0, 9], [0, 21, 22, 23, 24, 25, 0]]
    right = collate([(text, []) for text in texts], 255)
    with torch.no_grad():
        alone = torch.stack([classifier(torch.tensor([text])).logits[0, 0] for text in texts])  # transformers, unpadded
        torch.testing.assert_close(model(*pad_left(texts, 255)), alone, rtol=0, atol=1e-4)
        torch.testing.assert_close(model(right.ids, right.attention_mask), alone, rtol=0, atol=1e-4)


@pytest.fixture
def policy(engine):
    """A policy whose value head is not zero."""
    lm = make_lm().eval()
    engine.prepare(lm)
    policy = Policy(lm, engine).eval()
    torch.nn.init.normal_(policy.value_head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return policy


@pytest.fixture
def rollout(policy, tiny_tokenizer, noise):
    """Responses of LENGTHS tokens, scored against another model."""
    reference = make_lm(seed=1).eval().requires_grad_(False)
    responses = generate(policy, PROMPTS, noise, tiny_tokenizer, 1.0)
    raw = torch.arange(ROWS).float()
    return score_rollout(policy, reference, responses, raw, ScoreScale(3, 2, -1), 1.0)


def gradient(model, batch, microbatch_size, loss, count):
    """The loss and the gradient that `accumulate` leaves."""
    model.zero_grad()
    figures = accumulate(batch, microbatch_size, loss, count(batch), "test")
    return figures, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_microbatches_equal_the_batch(model, batch, loss, count):
    """Microbatches of 3 rows give figures and gradient of the whole batch; a mean of their means would not."""
    figures, whole = gradient(model, batch, 0, loss, count)
    in_parts, summed = gradient(model, batch, 3, loss, count)
    assert in_parts == pytest.approx(figures, rel=1e-4, abs=1e-5)
    assert (summed - whole).norm() < 1e-5 * whole.norm()
    parts = list(split_rows(batch, np.arange(number_of_rows(batch)), 3))
    mean_of_means = sum(gradient(model, part, 0, loss, count)[1] for part in parts) / len(parts)
    assert (mean_of_means - whole).norm() > 0.01 * whole.norm()


def test_microbatches_of_ppo_equal_the_batch(policy, rollout):
    rollout, states = rollout
    batch = compute_advantages(rollout, rollout_values(policy, states, rollout), 0.1, 1.0, 0.95)
    settings = PPOConfig(temperature=1.0)
    assert_microbatches_equal_the_batch(policy, batch, lambda b: ppo_loss(policy, b, settings), number_of_tokens)


def test_microbatches_of_reinforce_equal_the_batch(policy, rollout):
    batch = ReinforceBatch(rollout[0], reinforce_advantages(rollout[0], 0.1))
    assert_microbatches_equal_the_batch(policy, batch, lambda b: reinforce_loss(policy, b, 1.0), number_of_rows)


def test_microbatches_of_sft_equal_the_batch(policy, tiny_tokenizer):
    texts = [*GOOD, "a joy", "it is " + " , ".join(GOOD)]
    batch = collate([tiny_tokenizer.demonstration("", text) for text in texts], 255)
    assert_microbatches_equal_the_batch(policy, batch, lambda b: (sft_loss(policy, b), {}), number_of_targets)


@pytest.mark.parametrize("texts_of_each", [1, 2, 3])
def test_microbatches_of_the_reward_model_equal_the_batch(tiny_model_folder, tiny_tokenizer, engine, texts_of_each):
    classifier = load_reward_model(tiny_model_folder, pad_id=255).eval()
    engine.prepare(classifier)
    model = RewardModel(classifier, engine)
    texts = [tiny_tokenizer.demonstration("", text) for text in [*GOOD, "a joy", "it is " + " , ".join(GOOD)]]
    sides = [(text, texts[-1 - place], texts[place - 1])[:texts_of_each] for place, text in enumerate(texts[:5])]
    batch = collate_examples(
        [PreferenceExample(Judgement("", ("",) * len(s), w), s) for s, w in zip(sides, (1, 0, 1, 0.5, 0), strict=True)],
        tiny_tokenizer,
    )
    assert_microbatches_equal_the_batch(model, batch, lambda b: preference_loss(model, b), number_of_rows)
