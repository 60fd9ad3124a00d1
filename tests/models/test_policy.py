import pytest
import torch
from sklearn.linear_model import Ridge
from tiny import make_lm
from transformers import GPT2ForSequenceClassification

from plaudit.models.fast.engine import FastEngine
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel, fit_value_head, initialise_score_head
from plaudit.models.tokenizer import collate, pad_left

PROMPTS = [[0, 5, 6, 7], [0, 9]]
RESPONSES = [[11, 12, 0], [13, 14, 15, 16, 0]]


@pytest.fixture(params=["plain", "fast"])
def engine(request, tmp_path):
    return PlainEngine() if request.param == "plain" else FastEngine(torch.float32, tmp_path)


def left_padded():
    """Prompts padded on the left and responses on the right, as in a rollout: (ids, attention_mask, response_mask)."""
    ids, mask = pad_left(PROMPTS, pad_id=255)
    right = torch.tensor([[11, 12, 0, 255, 255], [13, 14, 15, 16, 0]])
    response_mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    return torch.cat([ids, right], 1), torch.cat([mask, response_mask], 1), response_mask


def test_log_probabilities_of_a_padded_batch_are_those_of_each_text_alone(tiny_lm, engine):
    batch = left_padded()
    with torch.no_grad():
        logprobs, _ = Policy(tiny_lm, engine)(*batch)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            # The oracle: transformers' own forward on the bare text, token by token.
            logits = tiny_lm(torch.tensor([prompt + response])).logits.log_softmax(-1)[0]
            alone = [logits[len(prompt) + i - 1, t].item() for i, t in enumerate(response)]
            assert logprobs[row, batch[2][row]].tolist() == pytest.approx(alone, abs=1e-4)
    assert not logprobs[~batch[2]].any()


def test_left_and_right_padding_agree(tiny_lm, engine):
    right = collate(list(zip(PROMPTS, RESPONSES, strict=True)), pad_id=255)
    mask = right.loss_mask[:, 1:]
    ids, attention_mask, response_mask = left_padded()
    with torch.no_grad():
        policy = Policy(tiny_lm, engine)
        padded_left = policy(ids, attention_mask, response_mask)[0][response_mask]
        padded_right = policy(right.ids, right.attention_mask, mask)[0][mask]
    torch.testing.assert_close(padded_left, padded_right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_divides_the_logits(tiny_lm, engine, temperature):
    ids, attention_mask, mask = left_padded()
    with torch.no_grad():
        logprobs, _ = Policy(tiny_lm, engine)(ids, attention_mask, mask, temperature)
        logits = tiny_lm(torch.tensor([PROMPTS[1] + RESPONSES[1]])).logits[0, 1:-1] / temperature
    expected = logits.log_softmax(-1).gather(1, torch.tensor(RESPONSES[1])[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs[1], expected, rtol=1e-4, atol=1e-4)


def test_a_new_value_head_is_zero_and_may_be_left_out(tiny_lm, engine):
    batch = left_padded()
    logprobs, values = Policy(tiny_lm, engine)(*batch)
    assert (values == 0).all()
    without, none = Policy(tiny_lm, engine, value_head=False)(*batch)
    assert none is None
    assert torch.equal(logprobs, without)


def test_the_value_before_a_token_does_not_depend_on_that_token(tiny_lm, engine):
    policy = Policy(tiny_lm, engine)
    torch.nn.init.normal_(policy.value_head.weight)
    ids, attention_mask, mask = left_padded()
    changed = ids.clone()
    changed[0, -5] = 99  # the first response token of row 0
    with torch.no_grad():
        before, after = (policy(x, attention_mask, mask)[1] for x in (ids, changed))
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.isclose(before[0, 1:3], after[0, 1:3]).any()
    torch.testing.assert_close(before[1], after[1])


@pytest.fixture
def classifier():
    model = GPT2ForSequenceClassification(make_lm().config)
    model.config.num_labels, model.config.pad_token_id = 1, 255
    model.score = torch.nn.Linear(32, 1, bias=False)
    return model.eval()


def test_scores_equal_what_transformers_reads_from_the_same_padded_batch(classifier, engine):
    batch = collate([([0, 5, 6, 7], [11, 12, 0]), ([0, 9], [13, 0])], pad_id=255)  # the second ends early
    with torch.no_grad():
        ours = RewardModel(classifier, engine)(batch.ids, batch.attention_mask)
        theirs = classifier(input_ids=batch.ids, attention_mask=batch.attention_mask.long()).logits[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_score_is_read_at_the_end_token_and_not_one_before_it(classifier, engine):
    ids, mask, _ = left_padded()
    without = ids.clone()
    without[0, 6] = 17  # in place of row 0's end token
    with torch.no_grad():
        model = RewardModel(classifier, engine)
        scores, changed = model(ids, mask), model(without, mask)
    assert not torch.isclose(scores[0], changed[0])
    torch.testing.assert_close(scores[1], changed[1])


def test_the_score_head_starts_with_the_published_spread(classifier):
    initialise_score_head(classifier, torch.full((1, 32), 1.0))
    torch.testing.assert_close(classifier.score.weight.detach(), torch.full((1, 32), 33**-0.5))


@pytest.mark.parametrize("fast", [False, True])
def test_heads_are_float32_where_the_layers_run_in_bfloat16(tiny_lm, tmp_path, fast):
    policy = Policy(tiny_lm, FastEngine(torch.bfloat16, tmp_path) if fast else PlainEngine(torch.bfloat16))
    torch.nn.init.normal_(policy.value_head.weight)
    logprobs, values = policy(*left_padded())
    for figures in (logprobs, values):
        assert figures.dtype == torch.float32
        assert not torch.equal(figures, figures.bfloat16().float())  # not merely converted afterwards


def test_the_fitted_value_head_is_a_ridge_regression_with_a_free_intercept(tiny_lm, engine):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(500, 32, generator=generator) + 3
    returns = states @ torch.randn(32, generator=generator) - 7 + torch.randn(500, generator=generator)
    policy = Policy(tiny_lm, engine)
    fit_value_head(policy, states, returns)
    centred = states.numpy() - states.numpy().mean(0)
    alpha = 0.01 * (centred**2).sum(0).mean()
    oracle = Ridge(alpha=alpha).fit(states.numpy(), returns.numpy())
    assert policy.value_head.weight[0].tolist() == pytest.approx(oracle.coef_.tolist(), abs=1e-4)
    assert policy.value_head.bias.item() == pytest.approx(oracle.intercept_, abs=1e-3)
