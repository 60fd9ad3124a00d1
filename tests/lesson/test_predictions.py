import numpy as np
import pytest
import torch
from tiny import BAD, GOOD

from plaudit.lesson.predictions import activations, continuations, likely_next, reward_logits, visible_tokens
from plaudit.models.loading import load_reward_model


def test_the_seed_decides_the_continuations(tiny_lm, tiny_tokenizer):
    prompts = ["a film", "the cast is", "x"]
    texts, ended = continuations(tiny_lm, tiny_tokenizer, prompts, 1, 1.0, max_new_tokens=12)
    assert (texts, ended) == continuations(tiny_lm, tiny_tokenizer, prompts, 1, 1.0, max_new_tokens=12)
    assert texts != continuations(tiny_lm, tiny_tokenizer, prompts, 2, 1.0, max_new_tokens=12)[0]
    # A row depends neither on the other rows nor on the padding.
    assert continuations(tiny_lm, tiny_tokenizer, prompts[:1], 1, 1.0, max_new_tokens=12) == (texts[:1], ended[:1])


def test_a_model_that_predicts_only_eos_ends_at_once(tiny_lm, tiny_tokenizer):
    with torch.no_grad():
        tiny_lm.transformer.ln_f.weight.zero_()
        tiny_lm.transformer.ln_f.bias.copy_(100 * tiny_lm.lm_head.weight[tiny_tokenizer.eos_id])
    assert continuations(tiny_lm, tiny_tokenizer, ["a film"], 1, 1.0, max_new_tokens=4) == ([""], [True])


def test_likely_next_sorts_all_tokens_by_probability(tiny_lm, tiny_tokenizer):
    tokens, shares = likely_next(tiny_lm, tiny_tokenizer, "a film", k=300)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    with torch.no_grad():
        best = int(tiny_lm(input_ids=torch.tensor([tiny_tokenizer.prompt("a film")])).logits[0, -1].argmax())
    assert tokens[0] == tiny_tokenizer.hf.decode([best]).replace(" ", "␣")


def test_visible_tokens_show_spaces_and_line_breaks(tiny_tokenizer):
    ids = tiny_tokenizer.hf(" a film\n")["input_ids"]
    assert "".join(visible_tokens(tiny_tokenizer, ids)) == "␣a␣film↵"


def test_reward_logits_of_a_batch_equal_those_of_single_texts(bare_run, tiny_tokenizer):
    model = load_reward_model(bare_run().model("reward_model"), tiny_tokenizer.pad_id)
    texts = [*GOOD, *BAD, "a"]
    for text, logit in zip(texts, reward_logits(model, tiny_tokenizer, texts), strict=True):
        ids = torch.tensor([[*tiny_tokenizer.prompt(""), *tiny_tokenizer.response(text)]])
        with torch.no_grad():
            single = model.base_model(input_ids=ids).last_hidden_state[0, -1] @ model.score.weight[0]
        np.testing.assert_allclose(float(single), logit, atol=1e-4)


def test_activations_are_the_mean_over_the_response_whatever_the_batch(tiny_lm, tiny_tokenizer):
    prompts, responses = ["a film", ""] * 20, [*GOOD, "a"] * 40
    found = activations(tiny_lm, tiny_tokenizer, prompts, responses[:40])
    for row in (0, 1, 33):
        prompt, response = tiny_tokenizer.demonstration(prompts[row], responses[row])
        with torch.no_grad():
            states = tiny_lm.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
        np.testing.assert_allclose(found[row], states[len(prompt) :].mean(0), atol=1e-5)
