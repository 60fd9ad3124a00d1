import numpy as np
import pytest
import torch
from tiny import FAMILIES, make_family

from plaudit import rng
from plaudit.maths.logprobs import token_logprobs
from plaudit.maths.masked import unflatten
from plaudit.models import generation
from plaudit.models.generation import generate, sample_tokens
from plaudit.models.heads import response_logits
from plaudit.models.tokenizer import pad_left
from plaudit.models.trunk import states_below

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22]]


def _noise(rows=3, width=10):
    return rng.uniforms(range(rows), width, 0, "test", 0, "noise")


def _generate(lm, prompts, noise, pad_id=255, **kwargs):
    ids, mask = pad_left(prompts, pad_id=pad_id)
    return generate(lm, ids, mask, noise, eos_id=kwargs.pop("eos_id", 0), pad_id=pad_id, **kwargs)


def test_sampling_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)
    u = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.9999999999], dtype=torch.float64)
    assert sample_tokens(logits, u).tolist() == [0, 0, 1, 1, 2]


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, 3)
    assert sample_tokens(logits, torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)).tolist() == [1, 1]


@pytest.mark.parametrize("vocabulary", [255, 256, 257, 5000])
def test_a_large_vocabulary_is_inverted_as_its_whole_cumulative_distribution(vocabulary):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, vocabulary, generator=generator)
    u = torch.rand(400, dtype=torch.float64, generator=generator)
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    expected = (cumulative <= u[:, None]).sum(1)
    assert (sample_tokens(logits, u) != expected).sum() <= 1  # a number on the very border of two tokens
    assert sample_tokens(logits, torch.zeros(400, dtype=torch.float64)).tolist() == [0] * 400
    ends = sample_tokens(logits, torch.full((400,), 1 - 1e-12, dtype=torch.float64))
    assert (ends >= vocabulary - 3).all()


def test_frequencies_follow_the_softmax():
    p = np.array([0.5, 0.25, 0.15, 0.1])
    n = 20_000
    u = rng.uniforms(range(1), n, 0, "test", 0, "frequency")[0]
    drawn = sample_tokens(torch.tensor(p).log().float().expand(n, 4), u)
    counts = np.bincount(drawn.numpy(), minlength=4)
    assert (abs(counts - n * p) < 4.5 * np.sqrt(n * p * (1 - p))).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_greedy_oracle_each_token_is_the_one_that_a_full_forward_would_draw(tiny_lm, temperature):
    noise = _noise()
    out = _generate(tiny_lm, PROMPTS, noise, temperature=temperature)
    with torch.no_grad():
        for row, prompt in enumerate(PROMPTS):
            text = list(prompt)
            for t in range(int(out.response_mask[row].sum())):
                # No cache, no padding, no batch: transformers' forward on the text so far.
                logits = tiny_lm(torch.tensor([text])).logits[:, -1] / temperature
                token = sample_tokens(logits, noise[row, t : t + 1]).item()
                assert out.response_ids[row, t].item() == token
                text.append(token)


def test_the_cache_gives_the_logprobs_of_the_full_forward(tiny_lm):
    ids, mask = pad_left(PROMPTS, pad_id=255)
    out = generate(tiny_lm, ids, mask, _noise(), eos_id=0, pad_id=255)
    mask_of = out.response_mask
    with torch.no_grad():
        full = token_logprobs(response_logits(tiny_lm, out.ids, out.attention_mask, mask_of), out.response_ids[mask_of])
        full = unflatten(full, mask_of)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        step = tiny_lm(ids, attention_mask=mask.long(), position_ids=positions, use_cache=True)
        first = step.logits[:, -1].log_softmax(-1).gather(1, out.response_ids[:, :1])
    torch.testing.assert_close(full[:, :1], first, rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_equals_a_row_of_many(tiny_lm):
    noise = _noise()
    together = _generate(tiny_lm, PROMPTS, noise)
    for row, prompt in enumerate(PROMPTS):
        alone = _generate(tiny_lm, [prompt], noise[row : row + 1])
        n = int(alone.response_mask.sum())
        assert together.response_mask[row].sum() == n
        assert together.response_ids[row, :n].tolist() == alone.response_ids[0, :n].tolist()


def test_responses_end_at_eos_which_belongs_to_them(tiny_lm):
    # Whatever is drawn first in row 0 becomes the end token.
    first = _generate(tiny_lm, PROMPTS, _noise()).response_ids[0, 0].item()
    out = _generate(tiny_lm, PROMPTS, _noise(), eos_id=first)
    assert out.ended[0]
    assert out.response_mask[0].tolist() == [True] + [False] * (out.response_mask.shape[1] - 1)
    assert (out.response_ids[0, 1:] == 255).all()


def test_the_cap_cuts_and_says_so(tiny_lm):
    out = _generate(tiny_lm, PROMPTS, _noise(width=3), eos_id=299)
    assert out.response_mask.shape == (3, 3)
    assert not out.ended.any()
    assert out.response_mask.all()


ENDS = [1, 10, 2, 9, 3, 8, 1, 10]


def _ending(texts):
    """Noise that ends the responses after ENDS tokens, or at the cap: the first token of all is the end."""
    numbers = 0.3 + 0.7 * _noise(len(texts))  # no end by chance
    for row, length in enumerate(ENDS):
        if length < numbers.shape[1]:
            numbers[row, length - 1] = 1e-9 * row
    return numbers


@pytest.mark.parametrize("look_every", [1, 4])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_states_kept_on_the_way_are_those_of_the_finished_texts(family, look_every, monkeypatch):
    """Of every token, also the end token, and the one at the cap, after which nothing is drawn."""
    monkeypatch.setitem(generation._LOOK_EVERY, "cpu", look_every)
    lm, prompts = make_family(family), [[0, 5, 6, 7], [0, 9], [0, 21, 22], [0, 8, 8, 8, 8]] * 2
    noise = _ending(prompts)
    plain = _generate(lm, prompts, noise, pad_id=63)
    assert plain.response_mask.sum(1).tolist() == ENDS
    assert (plain.below.depth, plain.below.states.shape[2]) == (0, 0)
    for depth, shared in ((1, 1), (2, 1), (2, 0)):
        out = _generate(lm, prompts, noise, pad_id=63, depth=depth, shared=shared)
        assert torch.equal(out.ids, plain.ids)
        assert torch.equal(out.attention_mask, plain.attention_mask)
        assert torch.equal(out.ended, plain.ended)
        assert (out.below.depth, out.shared.depth) == (depth, shared)
        for left in (out.below, out.shared):
            assert not left.states[~out.attention_mask].any()
            again = states_below(lm, left.depth, out.ids, out.attention_mask)
            torch.testing.assert_close(left.states, again.states, rtol=1e-4, atol=1e-5)
        for row, mask in enumerate(out.attention_mask):
            with torch.no_grad():  # no cache, no padding, no batch: transformers' forward on the whole text
                alone = lm.base_model(out.ids[row][mask][None], output_hidden_states=True).hidden_states[depth][0]
            torch.testing.assert_close(out.below.states[row][mask], alone, rtol=1e-4, atol=1e-5)


def test_rows_are_looked_at_seldom_and_say_the_same(tiny_lm, monkeypatch):
    prompts = [*PROMPTS, *PROMPTS, *PROMPTS[:2]]
    often = _generate(tiny_lm, prompts, _ending(prompts))
    monkeypatch.setitem(generation._LOOK_EVERY, "cpu", 8)
    seldom = _generate(tiny_lm, prompts, _ending(prompts))
    assert torch.equal(often.ids, seldom.ids)
    assert torch.equal(often.ended, seldom.ended)
