import copy
import math

import pytest
import torch
from tiny import make_lm
from transformers import AutoModelForCausalLM

from plaudit import rng
from plaudit.models import heads, precision
from plaudit.models.heads import Policy, logits_of, logprobs_of
from plaudit.models.precision import RoundedProduct, halve, is_rounded, make_whole, refresh, shadows
from plaudit.models.trunk import ROUNDED_GRADIENT, freeze_below, hidden_states, rounded_gradient
from plaudit.training import optimizer as optim
from plaudit.training.checkpoint import Checkpoints

BF16 = torch.bfloat16
IDS = torch.tensor([[5, 6, 7, 8, 9, 3], [9, 8, 7, 6, 5, 4]])
MASK = torch.ones_like(IDS, dtype=torch.bool)
PREDICTING = MASK & (torch.arange(6) < 5)


def halved(lm):
    halve(lm, BF16)
    return lm


def loss_of(lm, ids=IDS):
    with torch.autocast("cpu", dtype=BF16):
        states = hidden_states(lm, ids, MASK, PREDICTING)
    return torch.nn.functional.cross_entropy(logits_of(lm, states), ids[:, 1:].flatten())


def test_float32_changes_nothing():
    lm = make_lm().eval()
    halve(lm, torch.float32)
    assert not shadows(lm)
    assert not is_rounded(lm.lm_head)


def test_what_learns_is_listed_and_kept_in_float32_and_computes_in_bfloat16():
    lm = make_lm().eval()
    before = copy.deepcopy(lm.state_dict())
    freeze_below(lm, 1)
    halve(lm, BF16)
    frozen, learns = (block.mlp.c_fc for block in lm.transformer.h)
    assert (frozen.weight.dtype, learns.weight.dtype) == (BF16, BF16)
    parameters = dict(lm.named_parameters())
    assert parameters["transformer.h.0.mlp.c_fc.weight"].dtype == BF16
    assert torch.equal(parameters["transformer.h.1.mlp.c_fc.weight"], before["transformer.h.1.mlp.c_fc.weight"])
    assert len(shadows(lm)) == 4
    assert parameters.keys() == dict(make_lm().eval().named_parameters()).keys()
    make_whole(lm, make_lm)
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())
    assert not shadows(lm)
    assert not is_rounded(lm.lm_head)


def stepped_on(lm, max_grad_norm):
    """(norm before clipping, {name: gradient after it}) of a step: AdamW's first moments are a tenth of it."""
    optimizer = optim.adamw(lm, 0.01)
    norm = optim.step(loss_of(lm), lm, optimizer, max_grad_norm, "here")
    return norm, {name: 10 * optimizer.state[p]["exp_avg"] for name, p in lm.named_parameters()}


def test_a_step_is_as_near_to_that_of_float32_as_autocasts():
    """The same products of the same rounded weights; the head's gradients, which autocast leaves, are rounded too."""
    exact, autocast, ours = make_lm().eval(), make_lm().eval(), halved(make_lm().eval())
    exact.config._attn_implementation = autocast.config._attn_implementation = ours.config._attn_implementation
    torch.nn.functional.cross_entropy(
        logits_of(exact, hidden_states(exact, IDS, MASK, PREDICTING)), IDS[:, 1:].flatten()
    ).backward()
    (_, by_autocast), (_, by_us) = (stepped_on(lm, math.inf) for lm in (autocast, ours))
    for name, parameter in exact.named_parameters():
        off, ours_off = ((found[name] - parameter.grad).norm() for found in (by_autocast, by_us))
        assert ours_off <= 1.5 * off + 0.005 * parameter.grad.norm(), name


def test_its_loss_is_that_of_float32_within_what_bfloat16_rounds():
    lm = make_lm().eval()
    states = hidden_states(lm, IDS, MASK, PREDICTING)
    exact = torch.nn.functional.cross_entropy(logits_of(lm, states), IDS[:, 1:].flatten())
    assert loss_of(halved(lm)).item() == pytest.approx(exact.item(), rel=3e-3)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_head_that_learns_from_a_part_at_a_time_gets_all_of_its_gradient(monkeypatch, at_once):
    """Parts are computed again for their gradients, and what backward is then given is not the parameter itself."""
    plain, ours = make_lm().eval(), halved(make_lm().eval())
    monkeypatch.setattr(heads, "LEARNED_AT_ONCE", at_once * plain.config.vocab_size)
    states = hidden_states(plain, IDS, MASK, PREDICTING).detach()
    gradients = []
    for lm in (plain, ours):
        (-logprobs_of(lm, states, IDS[:, 1:].flatten()).mean()).backward()
        gradients.append(rounded_gradient(lm.lm_head.weight) if lm is ours else lm.lm_head.weight.grad)
    exact, found = gradients
    assert (found - exact).norm() <= 0.01 * exact.norm()


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_frozen_head_teaches_in_bfloat16_what_one_that_learns_does_in_float32(monkeypatch, at_once):
    plain, ours, gradients = make_lm().eval(), halved(make_lm().eval()), []
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", at_once * plain.config.vocab_size)
    states = hidden_states(plain, IDS, MASK, PREDICTING).detach().requires_grad_()
    weights = torch.randn(len(states), generator=torch.Generator().manual_seed(0))
    freeze_below(ours, 1)
    for lm in (plain, ours):
        logprobs = logprobs_of(lm, states, IDS[:, 1:].flatten(), 0.7)
        gradients.append(torch.autograd.grad((logprobs * weights).sum(), states)[0])
    exact, found = gradients
    assert found.dtype == torch.float32
    assert (found - exact).norm() <= 0.01 * exact.norm()


@pytest.mark.parametrize("at_once", [37, 2**20])
def test_shadows_follow_a_step_and_a_checkpoint(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(optim, "_AT_ONCE_ON_CPU", at_once)
    lm = halved(make_lm().eval())
    policy = Policy(lm)
    optimizer = optim.adamw(policy, 0.01)
    optim.step(loss_of(lm), policy, optimizer, 1.0, "here")
    assert all(shadow.grad is None for _, shadow in shadows(policy))
    assert all(torch.equal(shadow, parameter.to(BF16)) for parameter, shadow in shadows(policy))
    Checkpoints(tmp_path, "f").save(1, policy, optimizer)
    fresh = Policy(halved(make_lm(seed=3).eval()))
    other = optim.adamw(fresh, 0.01)
    Checkpoints(tmp_path, "f").restore(fresh, other)
    for model, its in ((policy, optimizer), (fresh, other)):
        optim.step(loss_of(model.lm), model, its, 1.0, "here")
    for (name, whole), resumed in zip(policy.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(whole, resumed), name


def test_refresh_rounds_what_was_set():
    lm = halved(make_lm().eval())
    parameter, shadow = shadows(lm)[0]
    with torch.no_grad():
        parameter.fill_(1 + 2**-12)
    refresh(shadows(lm))
    assert torch.equal(shadow, torch.ones_like(shadow))


def test_gradients_at_shadows_are_clipped_with_the_others():
    plain, ours = make_lm().eval(), halved(make_lm().eval())
    (norm, _), (our_norm, clipped) = (stepped_on(lm, 0.01) for lm in (plain, ours))
    assert our_norm == pytest.approx(norm, rel=0.01)
    assert torch.stack([gradient.norm() for gradient in clipped.values()]).norm().item() == pytest.approx(
        0.01, rel=1e-3
    )


@pytest.mark.parametrize("at_once", [200, 2**21])
def test_a_rounded_product_is_the_product_of_rounded_numbers_in_float32(monkeypatch, at_once):
    monkeypatch.setattr(precision, "_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(9, 40, generator=generator), torch.randn(9, 70, generator=generator)
    weight = torch.nn.Parameter(torch.randn(70, 40, generator=generator))
    x.requires_grad_()

    def rounded(tensor):
        return tensor.detach().to(BF16).double()

    for _ in range(2):  # the second in the first's memory
        weight.__dict__.pop(ROUNDED_GRADIENT, None)
        x.grad = None
        for _ in range(2):  # a gradient that is there is added to
            given = RoundedProduct.apply(x, weight)
            given.backward(gradient)
        assert given.dtype == x.grad.dtype == torch.float32
        for found, exact in (
            (given, rounded(x) @ rounded(weight).T),
            (x.grad, 2 * rounded(gradient) @ rounded(weight)),
            (rounded_gradient(weight), 2 * rounded(gradient).T @ rounded(x)),
        ):
            # A CPU without bfloat16 products may take float32 ones, of the unrounded numbers.
            assert (found.detach() - exact).norm() <= 5e-3 * exact.norm()


def test_the_gradient_of_a_step_lies_where_that_of_the_step_before_lay():
    weight, places = torch.nn.Parameter(torch.ones(70, 40)), []
    for _ in range(2):
        weight.__dict__.pop(ROUNDED_GRADIENT, None)
        RoundedProduct.apply(torch.ones(9, 40), weight).sum().backward()
        places.append(rounded_gradient(weight).data_ptr())
    assert places[0] == places[1]


def test_a_frozen_weight_is_multiplied_as_one_that_learns_is_also_after_it_was_set():
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(9, 40, generator=generator), torch.randn(9, 70, generator=generator)
    weight = torch.randn(70, 40, generator=generator)
    x.requires_grad_()
    for _ in range(2):
        found = []
        for same in (torch.nn.Parameter(weight.clone()), weight):
            x.grad = None
            for _ in range(2):  # the second by what the first has laid out
                given = RoundedProduct.apply(x, same)
                given.backward(gradient)
            found.append((given.detach(), x.grad))
        (given, back), (frozen, frozen_back) = found
        torch.testing.assert_close(frozen, given, rtol=1e-6, atol=1e-6)
        assert (frozen_back - back).norm() <= 5e-3 * back.norm()  # it is given in bfloat16
        with torch.no_grad():
            assert torch.equal(RoundedProduct.apply(x, weight), frozen)
            weight.mul_(-2)


def test_the_temperature_divides_rounded_logits_too():
    lm = halved(make_lm().eval())
    states = hidden_states(make_lm().eval(), IDS, MASK, MASK)
    assert torch.equal(logits_of(lm, states, 2.0), logits_of(lm, states) / 2)  # halves are exact in every format


def test_a_gradient_in_both_places_is_taken_from_both():
    weight = torch.nn.Parameter(torch.ones(70, 40))
    model = torch.nn.ParameterList([weight])
    optimizer = optim.adamw(model, 0.1)
    loss = RoundedProduct.apply(torch.ones(9, 40), weight).sum() + weight.sum()
    optim.step(loss, model, optimizer, math.inf, "here")
    assert torch.equal(optimizer.state[weight]["exp_avg"], torch.full((70, 40), 1.0))  # a tenth of nine and one
    assert rounded_gradient(weight) is weight.grad is None


def test_a_frozen_head_gets_no_gradient():
    lm = make_lm().eval()
    freeze_below(lm, 1)
    loss_of(halved(lm)).backward()
    assert lm.lm_head.weight.grad is rounded_gradient(lm.lm_head.weight) is None
    assert all(shadow.grad is not None for _, shadow in shadows(lm))


def test_precision_is_as_it_was_after_a_product():
    before = torch.backends.mkldnn.matmul.fp32_precision
    RoundedProduct.apply(torch.ones(2, 3), torch.ones(4, 3))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("asking", [1, 5])
def test_tokens_attend_in_float32(asking):
    query, key, value = (
        rng.normals((2, 4, n, 8), 0, "test", name).to(BF16) for name, n in (("q", asking), ("k", 5), ("v", 5))
    )
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None, -asking:]
    module, given = make_lm().transformer.h[0].attn, {"attn_mask": mask}
    with torch.autocast("cpu", dtype=BF16):
        ours, _ = precision._attention(module, query, key, value, mask)
    whole = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), **given)
    halved = torch.nn.functional.scaled_dot_product_attention(query, key, value, **given)
    assert ours.dtype == BF16
    assert torch.equal(ours, whole.to(BF16).transpose(1, 2))
    assert not torch.equal(whole.to(BF16), halved)


def test_a_saved_model_attends_as_transformers_has_it(tmp_path):
    lm = halved(make_lm().eval())
    assert lm.config._attn_implementation != "sdpa"
    make_whole(lm, make_lm)
    lm.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert lm.config._attn_implementation == "sdpa"
