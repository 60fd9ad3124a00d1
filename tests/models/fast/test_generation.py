import pytest
import torch
from tiny import FAMILIES, make_family

from plaudit import rng
from plaudit.models.fast import generation
from plaudit.models.fast.engine import FastEngine
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.plain import PlainEngine
from plaudit.models.sampling import sample_tokens
from plaudit.models.tokenizer import pad_left

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22]]
LENGTHS = [1, 10, 2, 9, 3, 8, 1, 10]  # of the responses to MANY with the noise of `ending`; the limit is 10 tokens
MANY = [*PROMPTS, [0, 8, 8, 8, 8]] * 2


def some_noise(rows=3, width=10):
    return rng.uniforms(range(rows), width, 0, "test", 0, "noise")


def ending():
    """Noise that ends the responses to MANY after LENGTHS tokens, or at the limit: token 0 is the end token."""
    numbers = 0.3 + 0.7 * some_noise(len(MANY))  # no end by chance
    for row, length in enumerate(LENGTHS):
        if length < numbers.shape[1]:
            numbers[row, length - 1] = 1e-9 * row
    return numbers


def generate(engine, lm, prompts, noise, pad_id=255, eos_id=0, temperature=1.0):
    return engine.generate(lm, *pad_left(prompts, pad_id=pad_id), noise, [eos_id], pad_id, temperature)


@pytest.fixture(params=["plain", "fast"])
def engine(request, tmp_path):
    return PlainEngine() if request.param == "plain" else FastEngine(torch.float32, tmp_path)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_each_token_is_the_one_that_a_full_forward_draws(tiny_lm, engine, temperature):
    noise = some_noise()
    out = generate(engine, tiny_lm, PROMPTS, noise, temperature=temperature)
    for row, prompt in enumerate(PROMPTS):
        text = list(prompt)
        for t in range(int(out.response_mask[row].sum())):
            # No cache, no padding, no batch: transformers' forward on the text so far.
            logits = tiny_lm(torch.tensor([text])).logits[:, -1] / temperature
            token = sample_tokens(logits, noise[row, t : t + 1]).item()
            assert out.response_ids[row, t].item() == token
            text.append(token)


def test_a_row_does_not_depend_on_the_other_rows(tiny_lm, engine):
    noise = some_noise()
    together = generate(engine, tiny_lm, PROMPTS, noise)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(engine, tiny_lm, [prompt], noise[row : row + 1])
        assert together.tokens()[row] == alone.tokens()[0]


def test_a_response_ends_with_its_end_token(tiny_lm, engine):
    first = generate(engine, tiny_lm, PROMPTS, some_noise()).response_ids[0, 0].item()
    out = generate(engine, tiny_lm, PROMPTS, some_noise(), eos_id=first)
    assert out.ended[0]
    assert out.response_mask[0].tolist() == [True] + [False] * (out.response_mask.shape[1] - 1)
    assert (out.response_ids[0, 1:] == 255).all()


def test_the_length_limit_cuts_responses_off_and_says_so(tiny_lm, engine):
    out = generate(engine, tiny_lm, PROMPTS, some_noise(width=3), eos_id=299)
    assert out.response_mask.shape == (3, 3)
    assert not out.ended.any()
    assert out.response_mask.all()


def test_no_column_is_padding_in_every_row(engine):
    lm = make_family("gpt2")
    noise = ending()
    noise[:, 4] = 0.0  # all end after five tokens at the latest
    out = generate(engine, lm, MANY, noise, pad_id=63)
    assert out.response_mask.shape == (8, 5)
    assert out.ended.all()


@pytest.mark.parametrize("tokens_between_looks", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_activations_of_generated_texts_are_those_of_the_full_forward(
    family, tokens_between_looks, monkeypatch, tmp_path
):
    """Of every token: the end token too, and the one at the length limit, after which nothing is drawn."""
    monkeypatch.setitem(generation._TOKENS_BETWEEN_LOOKS, "cpu", tokens_between_looks)
    lm = make_family(family)
    plain = generate(PlainEngine(), lm, MANY, ending(), pad_id=63)
    assert plain.response_mask.sum(1).tolist() == LENGTHS
    for depths in ((), (1,), (1, 2)):
        out, outputs = generation.generate(
            lm, lm.get_output_embeddings(), *pad_left(MANY, pad_id=63), ending(), [0], 63, depths
        )
        assert torch.equal(out.ids, plain.ids)
        assert torch.equal(out.attention_mask, plain.attention_mask)
        assert torch.equal(out.ended, plain.ended)
        for depth, states in zip(depths, outputs, strict=True):
            for row, mask in enumerate(out.attention_mask):
                with torch.no_grad():
                    alone = lm.base_model(out.ids[row][mask][None], output_hidden_states=True).hidden_states[depth][0]
                torch.testing.assert_close(states[row][mask], alone, rtol=1e-4, atol=1e-5)


def test_generated_texts_do_not_run_through_the_frozen_layers_again(tmp_path):
    lm, engine, runs = make_family("gpt2"), FastEngine(torch.float32, tmp_path), []
    freeze_lower_layers(lm, 1)
    engine.prepare(lm)
    out = generate(engine, lm, MANY, ending(), pad_id=63)
    lm.transformer.h[1].register_forward_hook(lambda *_: runs.append(1))
    cached = engine.hidden_states(lm, out.ids, out.attention_mask, out.attention_mask)
    assert runs == []
    plain = PlainEngine().hidden_states(lm, out.ids, out.attention_mask, out.attention_mask)
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-5)


def test_a_seldom_look_at_finished_rows_changes_nothing(tiny_lm, monkeypatch, tmp_path):
    often = generate(FastEngine(torch.float32, tmp_path), tiny_lm, MANY, ending())
    monkeypatch.setitem(generation._TOKENS_BETWEEN_LOOKS, "cpu", 8)
    seldom = generate(FastEngine(torch.float32, tmp_path), tiny_lm, MANY, ending())
    assert torch.equal(often.ids, seldom.ids)
    assert torch.equal(often.ended, seldom.ended)
