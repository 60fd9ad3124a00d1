"""The plain engine runs any causal model of transformers. Here: models that the fast engine does not know."""

import pytest
import torch
from tiny import OTHER_FAMILIES, make_family, padded_texts, some_responses
from transformers import AutoModelForSequenceClassification

from plaudit import rng
from plaudit.maths.kl import kl_of_logprobs
from plaudit.models.fast.families import supports
from plaudit.models.plain import PlainEngine, position_ids
from plaudit.models.policy import Policy, RewardModel, last_token

EXTRA = {"gpt_neox, eager": ("gpt_neox", "eager"), "gpt2, sdpa": ("gpt2", "sdpa")}  # known families, run plainly
every_model = pytest.mark.parametrize("name", [*OTHER_FAMILIES, *EXTRA])


def make(name):
    family, attention = EXTRA.get(name, (name, None))
    lm = make_family(family)
    lm.config._attn_implementation = attention or lm.config._attn_implementation
    return lm


def texts_of(responses):
    """(prompt ids, response ids) of each row, without padding."""
    return list(zip(responses.prompts(), responses.tokens(), strict=True))


@torch.no_grad()
def full_logprobs(lm, text, temperature=1.0):
    """(L, V) log-probabilities after each token of one text: transformers' forward, without batch, padding or cache."""
    arguments = {} if lm.config.model_type == "mamba" else {"use_cache": False}
    return torch.log_softmax(lm(torch.tensor([text]), **arguments).logits[0].double() / temperature, dim=-1)


def expected_logprobs(lm, responses, temperature):
    """Log-probabilities (N, V) of every token of the vocabulary in the place of each response token."""
    rows = [
        full_logprobs(lm, prompt + response, temperature)[len(prompt) - 1 : -1]
        for prompt, response in texts_of(responses)
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_these_models_are_not_for_the_fast_engine(name):
    assert not supports(make(name))


@every_model
def test_log_probabilities_are_those_of_each_text_alone(name):
    lm, responses = make(name), some_responses()
    mask = responses.response_mask
    tokens = responses.response_ids[mask]
    logp = expected_logprobs(lm, responses, 0.7)
    expected = logp.gather(1, tokens[:, None]).squeeze(1).float()
    found, states = PlainEngine().logprobs(lm, responses.ids, responses.attention_mask, mask, 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(states) == len(tokens)


@every_model
def test_the_likeliest_tokens_are_those_of_each_text_alone(name):
    lm, responses = make(name), some_responses()
    expected = expected_logprobs(lm, responses, 0.7).float()
    logprobs, tokens = PlainEngine().top_tokens(lm, responses, 5, 0.7)
    torch.testing.assert_close(logprobs, expected.topk(5).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logprobs, expected.gather(1, tokens), rtol=1e-4, atol=1e-4)
    assert PlainEngine().top_tokens(lm, responses, 100)[0].shape == (len(tokens), 64)  # the whole vocabulary


@every_model
def test_compare_gives_both_log_probabilities_the_kl_and_the_entropy(name):
    lm, reference, responses = make(name), make(name), some_responses()
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(0.9)
    tokens = responses.response_ids[responses.response_mask][:, None]
    logp, ref_logp = (expected_logprobs(m, responses, 0.7) for m in (lm, reference))
    found = PlainEngine().compare(lm, reference, responses, 0.7)
    expected = [
        logp.gather(1, tokens).squeeze(1),
        ref_logp.gather(1, tokens).squeeze(1),
        (logp.exp() * (logp - ref_logp)).sum(1),
        -(logp.exp() * logp).sum(1),
    ]
    torch.testing.assert_close(expected[2], kl_of_logprobs(logp, ref_logp))
    for ours, exact in zip(found[:4], expected, strict=True):
        torch.testing.assert_close(ours, exact.float(), rtol=1e-3, atol=1e-4)


def test_compare_gives_the_same_in_parts(monkeypatch):
    lm, reference, responses = make("bloom"), make_family("bloom", seed=1), some_responses()
    whole = PlainEngine().compare(lm, reference, responses)
    monkeypatch.setattr("plaudit.models.plain._ROWS", 4)
    for ours, exact in zip(PlainEngine().compare(lm, reference, responses), whole, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


@every_model
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_generation_draws_what_a_loop_without_a_cache_draws(name, temperature):
    """The loop reads the whole text again for each token, one text at a time, and inverts the distribution itself."""
    lm, responses = make(name), some_responses()
    prompts = responses.prompts()
    noise = rng.uniforms(range(len(prompts)), 12, 0, "test", 0, "noise")
    prompt_ids = responses.ids[:, :4]
    out = PlainEngine().generate(lm, prompt_ids, responses.prompt_mask, noise, [5], 63, temperature)
    for row, prompt in enumerate(prompts):
        text, ended = list(prompt), False
        for u in noise[row]:
            cumulative = full_logprobs(lm, text, temperature)[-1].exp().cumsum(0)
            text.append(int((cumulative <= u * cumulative[-1]).sum()))
            ended = text[-1] == 5
            if ended:
                break
        assert out.prompts()[row] + out.tokens()[row] == text
        assert out.ended[row] == ended


@every_model
def test_gradients_are_those_of_each_text_alone(name):
    responses, gradients = some_responses(), []
    lm = make(name)
    policy = Policy(lm, PlainEngine())
    logprobs, _ = policy(responses.ids, responses.attention_mask, responses.response_mask)
    logprobs.sum().backward()
    gradients.append({n: p.grad for n, p in policy.lm.named_parameters()})
    alone = make(name)
    for prompt, response in texts_of(responses):
        logits = alone(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        torch.log_softmax(logits, -1).gather(1, torch.tensor(response)[:, None]).sum().backward()
    for parameter_name, parameter in alone.named_parameters():
        found, exact = gradients[0][parameter_name], parameter.grad
        assert (found - exact).norm() <= 1e-4 * exact.norm() + 1e-5, parameter_name


@every_model
def test_a_value_head_learns_on_the_last_hidden_state(name):
    responses = some_responses()
    policy = Policy(make(name), PlainEngine())
    with torch.no_grad():
        policy.value_head.weight.fill_(0.1)
    _, values = policy(responses.ids, responses.attention_mask, responses.response_mask)
    assert values[responses.response_mask].std() > 0
    assert not values[~responses.response_mask].any()


@every_model
def test_bfloat16_is_near_float32(name):
    lm, responses = make(name), some_responses()
    batch = responses.ids, responses.attention_mask, responses.response_mask
    exact, _ = PlainEngine().logprobs(lm, *batch)
    engine = PlainEngine(torch.bfloat16)
    policy = Policy(lm, engine)
    logprobs, values = policy(*batch)
    assert logprobs.dtype == values.dtype == torch.float32
    mask = responses.response_mask
    assert (logprobs[mask] - exact).norm() <= 0.05 * exact.norm()
    (logprobs.sum() + values.sum()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in lm.parameters())
    noise = rng.uniforms(range(6), 5, 0, "test", 0, "noise")
    out = engine.generate(lm, batch[0][:, :4], responses.prompt_mask, noise, [5], 63)
    assert out.response_mask[:, 0].all()


@pytest.mark.parametrize("name", ["opt", "bloom", "mistral, sliding window", "gpt2, sdpa"])
def test_scores_are_those_of_each_text_alone(name):
    torch.manual_seed(1)
    config = make(name).config
    config.num_labels, config.pad_token_id = 1, 63
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    ids, mask = padded_texts([5, 2, 9], left=(1,))
    with torch.no_grad():
        scores = RewardModel(classifier, PlainEngine())(ids, mask)
        for row in range(3):
            hidden = classifier.base_model(ids[row][mask[row]][None]).last_hidden_state
            assert scores[row].item() == pytest.approx(classifier.score(hidden)[0, -1].item(), abs=1e-4)


def test_positions_start_at_zero_after_left_padding():
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_the_last_token_is_found_whatever_the_padding():
    mask = torch.tensor([[False, True, True, False], [True, True, True, True], [True, False, False, False]])
    assert last_token(mask).nonzero().tolist() == [[0, 2], [1, 3], [2, 0]]


@pytest.mark.parametrize("name", ["opt", "bloom", "gpt2, sdpa"])
def test_logits_are_products_in_float32_where_the_layers_run_in_bfloat16(name):
    lm, responses = make(name), some_responses()
    batch = responses.ids, responses.attention_mask, responses.response_mask
    with torch.no_grad():
        logits, states = PlainEngine(torch.bfloat16).response_logits(lm, *batch, 0.7)
        torch.testing.assert_close(logits, states @ lm.get_output_embeddings().weight.T / 0.7, rtol=1e-5, atol=1e-5)


def test_the_output_embedding_is_left_as_it_was_also_by_a_call_that_fails():
    lm, responses = make("opt"), some_responses()
    engine = PlainEngine(torch.bfloat16)
    batch = responses.attention_mask, responses.response_mask
    engine.logprobs(lm, responses.ids, *batch)
    with pytest.raises(IndexError):
        engine.logprobs(lm, responses.ids + 64, *batch)
    assert not lm.get_output_embeddings()._forward_hooks
