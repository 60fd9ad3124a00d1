"""Ways of computing the same thing that must agree: with and without a cache, padding, batching or microbatches."""

import numpy as np
import pytest
import torch
from tiny import GOOD, make_lm

import plaudit.models.generation as generation
from plaudit import rng
from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.ppo import ppo_loss
from plaudit.algorithms.rollout import ScoreScale, collect, estimate, respond
from plaudit.algorithms.sft import loss_of
from plaudit.models.generation import generate
from plaudit.models.heads import Policy, response_logits, score_texts
from plaudit.models.tokenizer import collate, pad_left

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22], [0, 8, 8, 8, 8]] * 2
ROWS, CAP = len(PROMPTS), 10
LENGTHS = [1, 10, 2, 9, 3, 8, 1, 10]


@pytest.fixture
def noise():
    """Numbers that end the responses after LENGTHS tokens, or at the cap: the first token is the end."""
    numbers = rng.uniforms(range(ROWS), CAP, 0, "test", 0, "noise")
    for row, length in enumerate(LENGTHS):
        if length < CAP:
            numbers[row, length - 1] = 1e-9 * row
    return numbers


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_distributions_that_are_sampled_from_are_those_of_the_full_forward(
    tiny_lm, noise, temperature, monkeypatch
):
    """Cache, left padding and batch against one plain forward of transformers over each bare text."""
    cached, draw = [[] for _ in PROMPTS], generation.sample_tokens
    rows_at_once = []

    def seen(logits, u):
        t = len(rows_at_once)
        rows_at_once.append(len(u))
        for row, number in enumerate(noise[:, t]):
            cached[row].extend(logits[u == number].log_softmax(-1))
        return draw(logits, u)

    monkeypatch.setattr(generation, "sample_tokens", seen)
    ids, mask = pad_left(PROMPTS, pad_id=255)
    out = generate(tiny_lm, ids, mask, noise, eos_id=0, pad_id=255, temperature=temperature)
    lengths = out.response_mask.sum(1).tolist()
    assert lengths == LENGTHS
    assert rows_at_once == sorted(rows_at_once, reverse=True)
    assert rows_at_once[-1] == 2  # the others have left
    with torch.no_grad():
        batch = (out.ids, out.attention_mask, out.response_mask)
        ours = response_logits(tiny_lm, *batch, temperature).log_softmax(-1).split(lengths)
        for row, n in enumerate(lengths):
            text = [*PROMPTS[row], *out.response_ids[row, :n].tolist()]
            plain = (tiny_lm(torch.tensor([text])).logits[0, -n - 1 : -1] / temperature).log_softmax(-1)
            torch.testing.assert_close(torch.stack(cached[row])[:n], plain, rtol=0, atol=1e-4)
            torch.testing.assert_close(ours[row], plain, rtol=0, atol=1e-4)


def test_rows_that_end_at_very_different_times_say_what_each_says_alone(tiny_lm, noise):
    ids, mask = pad_left(PROMPTS, pad_id=255)
    out = generate(tiny_lm, ids, mask, noise, eos_id=0, pad_id=255)
    assert out.response_mask.sum(1).tolist() == LENGTHS
    for row, (prompt, n) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        alone = generate(tiny_lm, *pad_left([prompt], pad_id=255), noise[row : row + 1], eos_id=0, pad_id=255)
        assert out.response_ids[row, :n].tolist() == alone.response_ids[0].tolist()
        assert (out.response_ids[row, n:] == 255).all()
        assert out.ended[row] == alone.ended[0] == (n < CAP)


def test_scores_do_not_depend_on_the_side_of_the_padding_nor_on_the_batch(tiny_model_folder):
    from plaudit.models.loading import load_reward_model

    model = load_reward_model(tiny_model_folder, pad_id=255).eval()
    texts = [[0, 5, 6, 7, 0], [0, 9], [0, 21, 22, 23, 24, 25, 0]]
    with torch.no_grad():
        left = score_texts(model, *pad_left(texts, 255))
        right = collate([(t, []) for t in texts], 255)
        right = score_texts(model, right.ids, right.attention_mask)
        alone = torch.stack([model(torch.tensor([t])).logits[0, 0] for t in texts])  # transformers, unpadded
    torch.testing.assert_close(left, alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(right, alone, rtol=0, atol=1e-4)


def _experience(run, tokenizer, noise):
    """A policy and what it has to learn from responses of LENGTHS tokens."""
    policy, reference = Policy(make_lm()).eval(), make_lm(seed=1).eval()
    torch.nn.init.normal_(policy.value_head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    responses = respond(policy.lm, PROMPTS, noise, tokenizer, 1.0, run)
    rollout, _, _ = collect(policy, reference, torch.arange(ROWS).float(), responses, ScoreScale(3, 2, -1), 1.0, run)
    return policy, estimate(rollout, 0.1, 1.0, 0.95)


def _gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_ppo_microbatches_weighed_by_their_tokens_add_up_to_the_full_batch(cpu_run, tiny_tokenizer, noise):
    policy, experience = _experience(cpu_run, tiny_tokenizer, noise)
    settings = PPOConfig(temperature=1.0)
    tokens = experience.rollout.response_mask.sum().item()
    whole = _gradient(policy, ppo_loss(policy, experience, settings, cpu_run)[0])
    summed, mean_of_means, loss = 0, 0, 0
    parts = list(experience.minibatches(np.arange(ROWS), 3))  # of 3, 3 and 2 responses
    for part in parts:
        share = part.rollout.response_mask.sum().item() / tokens
        part_loss = ppo_loss(policy, part, settings, cpu_run)[0]
        gradient = _gradient(policy, part_loss)
        loss += share * part_loss.item()
        summed = summed + share * gradient
        mean_of_means = mean_of_means + gradient / len(parts)
    assert loss == pytest.approx(ppo_loss(policy, experience, settings, cpu_run)[0].item(), abs=1e-5)
    assert (summed - whole).norm() < 1e-5 * whole.norm()
    assert (mean_of_means - whole).norm() > 0.01 * whole.norm()  # the fault would be seen


def test_sft_microbatches_weighed_by_their_tokens_add_up_to_the_full_batch(cpu_run, tiny_lm, tiny_tokenizer):
    texts = [*GOOD, "a joy", "it is " + " , ".join(GOOD)]
    pairs = [tiny_tokenizer.demonstration("", text) for text in texts]
    total = sum(len(response) for _, response in pairs)
    whole = _gradient(tiny_lm, loss_of(tiny_lm, collate(pairs, 255), cpu_run))
    summed = 0
    for start in (0, 3):
        part = pairs[start : start + 3]
        share = sum(len(response) for _, response in part) / total
        summed = summed + share * _gradient(tiny_lm, loss_of(tiny_lm, collate(part, 255), cpu_run))
    assert (summed - whole).norm() < 1e-5 * whole.norm()
