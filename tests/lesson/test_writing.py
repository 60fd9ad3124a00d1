import pytest
import torch

from plaudit.lesson.writing import continuations, likely_next, spelled


def test_the_same_seed_writes_the_same_and_an_end_is_told(tiny_lm, tiny_tokenizer):
    prompts = ["a film", "the cast is", "x"]
    first = continuations(tiny_lm, tiny_tokenizer, prompts, 1, 1.0, cap=12)
    assert first == continuations(tiny_lm, tiny_tokenizer, prompts, 1, 1.0, cap=12)
    assert first != continuations(tiny_lm, tiny_tokenizer, prompts, 2, 1.0, cap=12)
    # Each row draws its own noise, and padding on the left says nothing.
    assert continuations(tiny_lm, tiny_tokenizer, prompts[:1], 1, 1.0, cap=12) == first[:1]


def test_a_model_that_only_knows_the_end_ends_at_once(tiny_lm, tiny_tokenizer):
    with torch.no_grad():
        tiny_lm.transformer.ln_f.weight.zero_()
        tiny_lm.transformer.ln_f.bias.copy_(100 * tiny_lm.lm_head.weight[tiny_tokenizer.eos_id])
    assert continuations(tiny_lm, tiny_tokenizer, ["a film"], 1, 1.0, cap=4) == [("", True)]


def test_likely_tokens_fall_and_are_the_model_s(tiny_lm, tiny_tokenizer):
    tokens, shares = likely_next(tiny_lm, tiny_tokenizer, "a film", k=300)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    assert len(tokens) == 300
    ids = torch.tensor([tiny_tokenizer.prompt("a film")])
    with torch.no_grad():
        best = int(tiny_lm(input_ids=ids).logits[0, -1].argmax())
    assert tokens[0] == tiny_tokenizer.hf.decode([best]).replace(" ", "␣")


def test_spaces_are_seen(tiny_tokenizer):
    ids = tiny_tokenizer.hf(" a film\n")["input_ids"]
    assert "".join(spelled(tiny_tokenizer, ids)) == "␣a␣film↵"
