import pytest
import torch
from sklearn.linear_model import Ridge
from tiny import make_lm
from transformers import GPT2ForSequenceClassification

from plaudit.maths.logprobs import token_logprobs
from plaudit.maths.masked import unflatten
from plaudit.models import heads
from plaudit.models.heads import (
    Policy,
    fit_value_head,
    initialise_score_head,
    logits_of,
    logprobs_of,
    response_logits,
    score_texts,
)
from plaudit.models.tokenizer import collate, pad_left

PROMPTS = [[0, 5, 6, 7], [0, 9]]
RESPONSES = [[11, 12, 0], [13, 14, 15, 16, 0]]


def _left_padded():
    """Prompts padded on the left and responses on the right, as a rollout has them."""
    ids, mask = pad_left(PROMPTS, pad_id=255)
    right = torch.tensor([[11, 12, 0, 255, 255], [13, 14, 15, 16, 0]])
    alive = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    return torch.cat([ids, right], 1), torch.cat([mask, alive], 1), alive


def test_logprobs_of_a_padded_batch_equal_those_of_each_text_alone(tiny_lm):
    ids, mask, alive = _left_padded()
    with torch.no_grad():
        batched = unflatten(token_logprobs(response_logits(tiny_lm, ids, mask, alive), ids[:, -5:][alive]), alive)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            # The oracle: transformers' own forward on the bare text, token by token.
            logits = tiny_lm(torch.tensor([prompt + response])).logits.log_softmax(-1)[0]
            alone = [logits[len(prompt) + i - 1, t].item() for i, t in enumerate(response)]
            assert batched[row, alive[row]].tolist() == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "not packed"])
def test_left_and_right_padding_agree(tiny_lm, family):
    tiny_lm.config.model_type = family
    ids, mask, alive = _left_padded()
    right = collate(list(zip(PROMPTS, RESPONSES, strict=True)), pad_id=255)
    loss_mask = right.loss_mask[:, 1:]
    with torch.no_grad():
        a = token_logprobs(response_logits(tiny_lm, ids, mask, alive), ids[:, -5:][alive])
        b = token_logprobs(
            response_logits(tiny_lm, right.ids, right.attention_mask, loss_mask), right.ids[:, 1:][loss_mask]
        )
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_temperature_divides_the_logits(tiny_lm):
    ids, mask, alive = _left_padded()
    with torch.no_grad():
        torch.testing.assert_close(
            response_logits(tiny_lm, ids, mask, alive, temperature=0.5), 2 * response_logits(tiny_lm, ids, mask, alive)
        )


@pytest.mark.parametrize("learning", [True, False])
def test_many_logits_never_exist_together_and_say_the_same(tiny_lm, monkeypatch, learning):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(11, 32, generator=generator).requires_grad_()
    tokens, weights = torch.randint(300, (11,), generator=generator), torch.randn(11, generator=generator)
    head, made, saved = tiny_lm.get_output_embeddings(), [], []

    def gradients(logprobs):
        return torch.autograd.grad((logprobs * weights).sum(), [states, head.weight])

    plain = token_logprobs(head(states) / 0.7, tokens)  # all at once
    expected = gradients(plain)
    head.register_forward_hook(lambda _, __, logits: made.append(len(logits)))
    monkeypatch.setattr(heads, "LEARNED_AT_ONCE" if learning else "LOGITS_AT_ONCE", 4 * 300)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t)
    with hooks, torch.set_grad_enabled(learning):
        ours = logprobs_of(tiny_lm, states, tokens, 0.7)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert made == [4, 4, 3]
    assert ours.requires_grad == learning
    assert not [shape for shape in saved if shape[-1] == 300]  # nor are they kept for backward
    if learning:
        for ours_, theirs in zip(gradients(ours), expected, strict=True):
            torch.testing.assert_close(ours_, theirs, rtol=1e-5, atol=1e-6)
        assert sorted(made) == [3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("at_once", [1, 4, 300])
def test_a_head_that_does_not_learn_says_and_teaches_what_the_plain_path_does(tiny_lm, monkeypatch, at_once):
    generator, head, kept = torch.Generator().manual_seed(0), tiny_lm.get_output_embeddings(), []
    head.requires_grad_(False)
    states = torch.randn(11, 32, generator=generator).requires_grad_()
    tokens, weights = torch.randint(300, (11,), generator=generator), torch.randn(11, generator=generator)
    plain = token_logprobs(head(states) / 0.7, tokens)
    (expected,) = torch.autograd.grad((plain * weights).sum(), states)
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", at_once * 300)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        ours = logprobs_of(tiny_lm, states, tokens, 0.7)
    assert kept == [states.shape]  # no logits
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    (found,) = torch.autograd.grad((ours * weights).sum(), states)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learns", [True, False])
def test_so_many_tokens_that_there_are_added_some_say_and_teach_the_same(tiny_lm, learns):
    generator, head, made = torch.Generator().manual_seed(0), tiny_lm.get_output_embeddings(), []
    states = torch.randn(heads._MANY + 1, 32, generator=generator).requires_grad_()
    tokens = torch.randint(300, (len(states),), generator=generator)
    weights = torch.randn(len(states), generator=generator)
    head.requires_grad_(learns)
    teaches = [states, head.weight] if learns else [states]
    plain = token_logprobs(head(states), tokens)
    expected = torch.autograd.grad((plain * weights).sum(), teaches)
    head.register_forward_hook(lambda _, __, logits: made.append(len(logits)))
    ours = logprobs_of(tiny_lm, states, tokens)
    assert made == [heads._MANY + heads._MULTIPLE]
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), teaches), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_new_value_head_is_silent_and_the_policy_is_the_language_model(tiny_lm):
    ids, mask, alive = _left_padded()
    with torch.no_grad():
        states, values = Policy(tiny_lm)(ids, mask, alive)
        logits = logits_of(tiny_lm, states)
    assert (values == 0).all()
    torch.testing.assert_close(logits, response_logits(tiny_lm, ids, mask, alive), rtol=0, atol=0)


def test_the_value_before_a_token_has_not_seen_that_token(tiny_lm):
    policy = Policy(tiny_lm)
    torch.nn.init.normal_(policy.value_head.weight)
    ids, mask, alive = _left_padded()
    changed = ids.clone()
    changed[0, -5] = 99  # the first response token of row 0
    with torch.no_grad():
        before, after = policy(ids, mask, alive)[1], policy(changed, mask, alive)[1]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@pytest.fixture
def reward_model(tiny_lm):
    model = GPT2ForSequenceClassification(make_lm().config)
    model.config.num_labels, model.config.pad_token_id = 1, 255
    model.score = torch.nn.Linear(32, 1, bias=False)
    return model.eval()


def test_scores_equal_what_transformers_reads_from_the_same_padded_batch(reward_model):
    batch = collate([([0, 5, 6, 7], [11, 12, 0]), ([0, 9], [13, 0])], pad_id=255)  # the second ends early
    with torch.no_grad():
        ours = score_texts(reward_model, batch.ids, batch.attention_mask)
        theirs = reward_model(input_ids=batch.ids, attention_mask=batch.attention_mask.long()).logits[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_score_is_read_at_eos_and_not_one_before_it(reward_model):
    ids, mask, _ = _left_padded()
    without = ids.clone()
    without[0, 6] = 17  # row 0's eos becomes an ordinary token: the score must notice
    with torch.no_grad():
        assert score_texts(reward_model, ids, mask)[0] != score_texts(reward_model, without, mask)[0]


def test_the_score_head_starts_with_the_published_spread():
    model = GPT2ForSequenceClassification(make_lm().config)
    model.score = torch.nn.Linear(32, 1, bias=False)
    initialise_score_head(model, torch.full((1, 32), 1.0))
    torch.testing.assert_close(model.score.weight.detach(), torch.full((1, 32), 33**-0.5))


def test_heads_speak_float32_where_the_trunk_runs_in_bfloat16(tiny_lm):
    ids, mask, alive = _left_padded()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        states, values = Policy(tiny_lm)(ids, mask, alive)
        logits = logits_of(tiny_lm, states)
    assert logits.dtype == values.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())  # and not merely cast after the fact


def test_the_fitted_value_head_is_a_ridge_regression_with_a_free_intercept(tiny_lm):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(500, 32, generator=generator) + 3
    returns = states @ torch.randn(32, generator=generator) - 7 + torch.randn(500, generator=generator)
    policy = Policy(tiny_lm)
    fit_value_head(policy, states, returns)
    centred = states.numpy() - states.numpy().mean(0)
    alpha = 0.01 * (centred**2).sum(0).mean()
    oracle = Ridge(alpha=alpha).fit(states.numpy(), returns.numpy())
    assert policy.value_head.weight[0].tolist() == pytest.approx(oracle.coef_.tolist(), abs=1e-4)
    assert policy.value_head.bias.item() == pytest.approx(oracle.intercept_, abs=1e-3)
