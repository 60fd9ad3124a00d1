import math

import pytest
import torch
from tiny import make_lm

from plaudit import rng
from plaudit.algorithms.rollout import ScoreScale, collect, estimate, respond
from plaudit.batches import Below, Responses
from plaudit.maths.masked import masked_mean
from plaudit.models import heads
from plaudit.models.heads import Policy

SCALE = ScoreScale(mean=0.5, std=2.0, missing_eos=-1.0)


@pytest.fixture
def rollout(cpu_run, tiny_tokenizer):
    """A policy that differs from its reference, six responses of it, and what collect says of them."""
    lm, reference = make_lm(seed=0).eval(), make_lm(seed=1).eval()
    policy = Policy(lm)
    torch.nn.init.normal_(policy.value_head.weight, std=0.3)
    prompts = [[0, 5, 6, 7], [0, 9], [0, 21, 22]] * 2
    noise = rng.uniforms(range(6), 9, 0, "test", 0, "noise")
    responses = respond(lm, prompts, noise, tiny_tokenizer, 1.0, cpu_run)
    collected = collect(policy, reference, torch.arange(6).float(), responses, SCALE, 1.0, cpu_run)
    return lm, reference, responses, collected


def test_scores_are_normalised_and_a_cut_response_has_the_fixed_one():
    logits, ended = torch.tensor([0.5, 4.5, 9.0]), torch.tensor([True, True, False])
    assert SCALE.scores(logits, ended).tolist() == [0.0, 2.0, -1.0]


def test_the_scale_makes_reference_samples_standard():
    logits = torch.tensor([1.0, 3.0, 5.0, 11.0])
    scores = ScoreScale.measured(logits, -1.0).scores(logits, torch.ones(4, dtype=torch.bool))
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.std().item() == pytest.approx(1, abs=1e-6)


def test_collected_logprobs_and_kl_equal_those_of_each_text_alone(rollout):
    lm, reference, responses, (out, kl, entropies) = rollout
    with torch.no_grad():
        for row in range(6):
            ids = responses.ids[row][responses.attention_mask[row]][None]
            n = int(responses.response_mask[row].sum())
            logp, ref = (m(ids).logits[0, -n - 1 : -1].log_softmax(-1) for m in (lm, reference))
            tokens = ids[0, -n:, None]
            expected = {
                "logprobs": logp.gather(1, tokens)[:, 0],
                "ref_logprobs": ref.gather(1, tokens)[:, 0],
            }
            for name, value in expected.items():
                torch.testing.assert_close(getattr(out, name)[row, :n], value, rtol=1e-4, atol=1e-4)
            full = [
                sum(math.exp(p) * (p - q) for p, q in zip(a, b, strict=True))
                for a, b in zip(logp.tolist(), ref.tolist(), strict=True)
            ]
            assert kl[row, :n].tolist() == pytest.approx(full, abs=1e-4)
            assert (kl[row, n:] == 0).all()
            assert entropies[row, 0].item() == pytest.approx(-sum(math.exp(p) * p for p in logp[0].tolist()), abs=1e-4)


def test_what_is_collected_in_parts_is_what_is_collected_at_once(rollout, cpu_run, monkeypatch):
    lm, reference, responses, (whole, *figures) = rollout
    policy = Policy(lm)
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", 4 * lm.config.vocab_size)
    made = []
    lm.get_output_embeddings().register_forward_hook(lambda _, __, logits: made.append(len(logits)))
    out, *again = collect(policy, reference, torch.arange(6).float(), responses, SCALE, 1.0, cpu_run)
    n = int(responses.response_mask.sum())
    assert n > 8
    assert made == [4] * (n // 4) + [n % 4] * (n % 4 > 0)
    pairs = [(out.logprobs, whole.logprobs), (out.ref_logprobs, whole.ref_logprobs)]
    for ours, expected in (*pairs, *zip(again, figures, strict=True)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_policy_that_is_the_reference_has_no_kl(cpu_run, tiny_tokenizer):
    lm = make_lm().eval()
    noise = rng.uniforms(range(2), 6, 0, "test", 0, "noise")
    responses = respond(lm, [[0, 5], [0, 6, 7]], noise, tiny_tokenizer, 0.7, cpu_run)
    out, kl, _ = collect(Policy(lm), lm, torch.zeros(2), responses, SCALE, 0.7, cpu_run)
    assert kl.abs().max().item() < 1e-6
    torch.testing.assert_close(out.logprobs, out.ref_logprobs, rtol=0, atol=0)


def test_returns_come_from_raw_advantages_and_advantages_are_whitened_after(rollout):
    _, _, _, (out, _, _) = rollout
    experience = estimate(out, kl_coef=0.1, gamma=1.0, lam=1.0)
    mask = out.response_mask
    for row in range(6):  # lam = gamma = 1: the return of a token is the plain sum of rewards from there on
        n = int(mask[row].sum())
        rewards = [
            -0.1 * (p - q)
            for p, q in zip(out.logprobs[row, :n].tolist(), out.ref_logprobs[row, :n].tolist(), strict=True)
        ]
        rewards[-1] += out.scores[row].item()
        tails = [sum(rewards[t:]) for t in range(n)]
        assert experience.returns[row, :n].tolist() == pytest.approx(tails, abs=1e-4)
    assert masked_mean(experience.advantages, mask).item() == pytest.approx(0, abs=1e-6)
    assert (experience.advantages[mask] ** 2).mean().item() == pytest.approx(1, abs=1e-4)


def test_the_score_of_an_early_end_lands_on_its_end_token(cpu_run):
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    ids = torch.tensor([[0, 5, 6, 0, 255, 255], [0, 5, 6, 7, 8, 0]])
    responses = Responses(
        ids=ids,
        attention_mask=torch.tensor([[True] * 4 + [False] * 2, [True] * 6]),
        response_mask=mask,
        ended=torch.tensor([True, True]),
        below=Below.nothing(ids),
        shared=Below.nothing(ids),
    )
    lm = make_lm().eval()
    out, _, _ = collect(Policy(lm), lm, torch.tensor([4.5, 2.5]), responses, SCALE, 1.0, cpu_run)
    rewards = estimate(out, 0.1, 1.0, 0.95).rewards
    torch.testing.assert_close(rewards, torch.tensor([[0, 2.0, 0, 0], [0, 0, 0, 1.0]]), rtol=0, atol=1e-6)


def test_a_batch_is_answered_at_once_one_pass_a_token(cpu_run, tiny_tokenizer):
    lm, rows = make_lm().eval(), []
    for block in lm.base_model.h:
        block.attn.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    responses = respond(lm, [[0, 5], [0, 6, 7], [0, 8]], rng.uniforms(range(3), 6, 0, "test", 0, "noise"),
                        tiny_tokenizer, 1.0, cpu_run)  # fmt: skip
    assert rows == [3] * responses.response_mask.shape[1] * len(lm.base_model.h)
