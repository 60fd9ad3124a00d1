import copy

import pytest
import torch
from tiny import make_lm
from torch import nn

from plaudit.maths.logprobs import token_logprobs
from plaudit.models.fast import head as module
from plaudit.models.fast.head import Head, chunk_size

BF16 = torch.bfloat16
CHUNKS = [1, 4, 300]  # tokens whose logits exist together
CASES = {"learns": True, "frozen": False}


class Model(nn.Module):
    """A model with an output embedding of 300 tokens and width 32, with or without a bias."""

    def __init__(self, bias):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Linear(32, 300, bias=bias)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def get_output_embeddings(self):
        return self.head


def some_tokens(number=11):
    """Hidden states (N, 32), tokens (N,), and weights (N,) for a loss."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(number, 32, generator=generator).requires_grad_()
    return states, torch.randint(300, (number,), generator=generator), torch.randn(number, generator=generator)


def results(logprobs, weights, wanted):
    """Log-probabilities and the gradients of a fixed weighted sum of them."""
    return [logprobs.detach(), *torch.autograd.grad((logprobs * weights).sum(), wanted)]


@pytest.mark.parametrize("number", [11, module._MANY + 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("learns", CASES.values(), ids=CASES)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_log_probabilities_and_gradients_in_chunks_are_those_of_the_whole(monkeypatch, number, bias, learns, chunk):
    """From 512 tokens on their number is made a multiple of 64; the added ones must not count."""
    for name in ("_LOGITS", "_LOGITS_WITH_GRADIENT"):
        monkeypatch.setattr(module, name, chunk * 300)
    model = Model(bias).requires_grad_(learns)
    states, tokens, weights = some_tokens(number)
    wanted = [states, *(model.parameters() if learns else [])]
    expected = results(token_logprobs(model.head(states) / 0.7, tokens), weights, wanted)
    head = Head(model, rounded=False)
    found = results(head.logprobs(states, tokens, 0.7), weights, wanted)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(head.logprobs(states, tokens, 0.7), expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(head.logits(states, 0.7), model.head(states) / 0.7, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learns", CASES.values(), ids=CASES)
def test_logits_never_exist_for_more_tokens_than_a_chunk_nor_until_backward(monkeypatch, learns):
    for name in ("_LOGITS", "_LOGITS_WITH_GRADIENT"):
        monkeypatch.setattr(module, name, 4 * 300)
    made, kept, logits = [], [], Head.logits
    monkeypatch.setattr(Head, "logits", lambda self, states, t: made.append(len(states)) or logits(self, states, t))
    model = Model(False).requires_grad_(learns)
    states, tokens, weights = some_tokens()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        logprobs = Head(model, rounded=False).logprobs(states, tokens, 1.0)
    assert made == [4, 4, 3]
    assert not [shape for shape in kept if shape[-1] == 300]
    (logprobs * weights).sum().backward()
    assert made == [4, 4, 3] * (2 if learns else 1)  # a frozen head needs its logits once


def test_chunks_have_at_least_one_token():
    assert chunk_size(2**30, torch.device("cpu"), gradient=True) == 1
    assert chunk_size(50_000, torch.device("cpu"), gradient=False) < chunk_size(
        50_000, torch.device("cpu"), gradient=True
    )


def rounded(tensor):
    return tensor.detach().to(BF16).double()


@pytest.mark.parametrize("slice_", [200, 2**21])
@pytest.mark.parametrize("learns", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_rounded_products_are_those_of_rounded_numbers_summed_in_float32(monkeypatch, slice_, learns, dtype):
    """`dtype` is the weight's: bfloat16, or float32 under LoRA."""
    monkeypatch.setattr(module, "_SLICE", slice_)
    model = Model(False).requires_grad_(learns).to(dtype)
    states, tokens, weights = some_tokens(40)
    wanted = [states, *(model.parameters() if learns else [])]
    head = Head(model, rounded=True)
    found = results(head.logprobs(states, tokens, 1.0), weights, wanted)

    weight = rounded(model.head.weight).requires_grad_()
    x = rounded(states).requires_grad_()
    expected = results(torch.log_softmax(x @ weight.T, -1).gather(1, tokens[:, None]).squeeze(1), weights.double(),
                       [x, weight] if learns else [x])  # fmt: skip
    assert found[0].dtype == found[1].dtype == torch.float32
    for ours, theirs in zip(found, expected, strict=True):
        # A CPU that cannot multiply bfloat16 multiplies the unrounded states.
        assert (ours.double() - theirs).norm() <= 0.01 * theirs.norm()
    again = results(head.logprobs(states, tokens, 1.0), weights, wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_log_probability_is_more_precise_than_a_logit_in_bfloat16():
    """Logits near 80 are a quarter apart in bfloat16; KL and ratio need thousandths."""
    model, (states, tokens, _) = Model(False), some_tokens()
    with torch.no_grad():
        model.head.weight.copy_(rounded(40 * model.head.weight))
        states = rounded(states).float()
        exact = token_logprobs(states.double() @ model.head.weight.T.double(), tokens)
        found = Head(model, rounded=True).logprobs(states, tokens, 1.0)
    assert exact.abs().max() > 80
    torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-3)


def test_the_temperature_divides_rounded_logits_too():
    model, (states, _, _) = Model(True).bfloat16(), some_tokens()
    head = Head(model, rounded=True)
    with torch.no_grad():  # halves are exact in every number format
        torch.testing.assert_close(head.logits(states, 2.0), head.logits(states, 1.0) / 2, rtol=1e-6, atol=1e-6)


def test_a_frozen_weight_may_change_between_calls():
    """A packed copy of it is laid out once and must not outlive the change."""
    model = Model(False).requires_grad_(False).bfloat16()
    head, (states, tokens, weights) = Head(model, rounded=True), some_tokens(40)
    for _ in range(2):
        fresh = copy.deepcopy(model)
        found = results(head.logprobs(states, tokens, 1.0), weights, [states])
        expected = results(Head(fresh, rounded=True).logprobs(states, tokens, 1.0), weights, [states])
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        with torch.no_grad():
            unpacked = Head(fresh, rounded=True).logits(states, 1.0)
            torch.testing.assert_close(head.logits(states, 1.0), unpacked, rtol=1e-5, atol=1e-5)
            model.head.weight.mul_(-2)


def test_a_tied_embedding_gets_no_gradient_where_it_is_frozen():
    lm = make_lm().requires_grad_(False)
    states, tokens, _ = some_tokens()
    Head(lm, rounded=True).logprobs(states, tokens, 1.0).sum().backward()
    assert lm.lm_head.weight.grad is None
    assert states.grad.any()
