import re

import pytest
import torch

from plaudit import rng
from plaudit.algorithms.ppo import compute_advantages, rollout_values
from plaudit.lesson import ppo_tables
from plaudit.rewards import ModelReward
from plaudit.training.models import Models
from plaudit.training.rollouts import ScoreScale, generate, score_rollout


def columns_of(html):
    """The cells of a table by column; numbers as floats, empty cells as 0."""

    def cell(text):
        text = re.sub(r"<[^>]*>", "", text)
        try:
            return float(text.replace("−", "-").replace(",", "") or 0)
        except ValueError:
            return text

    rows = re.findall(r"<tr>(.*?)</tr>", html)
    head, *body = [[cell(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
    return {name: [row[i] for row in body] for i, name in enumerate(head)}


def test_every_parameter_belongs_to_one_part(bare_run):
    models = Models.load(bare_run(), "ppo", value_head=True)
    parts = ppo_tables.parameters_by_part(models.policy)
    assert list(parts) == ["embeddings", "layer 1", "layer 2", "final norm", "value head"]
    assert sum(map(len, parts.values())) == len(list(models.policy.parameters()))
    assert sum(p.numel() for p in parts["value head"]) == 33
    assert list(ppo_tables.parameters_by_part(models.reward_model))[-1] == "reward head"


@pytest.mark.parametrize("common", [True, False])
def test_memory_table_counts_trained_and_shared_parameters(bare_run, common):
    """Only the second layer of the policy is trained. The reward model has the first one in common, or nothing."""
    models = Models.load(bare_run(train_layers=1, reward_on_sft=common), "ppo", value_head=True)
    others = {"reference": models.reference, "reward model": models.reward_model}
    columns = columns_of(ppo_tables.memory_table(models.policy, others).text)
    parts = columns.pop("part")
    table = {name: dict(zip(parts, values, strict=True)) for name, values in columns.items()}
    # one layer of width 32: attention 3 * 32 * 32 + 96 + 32 * 32 + 32, MLP 2 * 4 * 32 * 32 + 128 + 32, norms 4 * 32
    assert table["policy"]["layer 1"] == table["reference"]["layer 2"] == 12.7
    assert table["policy, trained"]["embeddings"] == table["policy, trained"]["layer 1"] == 0
    assert table["policy, trained"]["layer 2"] == 12.7
    assert table["reference, shared"]["layer 1"] == 12.7
    assert table["reference, shared"]["layer 2"] == 0
    if common:
        assert table["reward model, shared"]["layer 1"] == 12.7
    else:  # small tensors that are zero in both models may be shared
        assert table["reward model, shared"]["layer 1"] < 0.6
    assert table["reward model, shared"]["layer 2"] == table["reward model, shared"]["reward head"] == 0


@pytest.fixture
def rollout(bare_run, tiny_tokenizer):
    """A tokenizer, and PPO's batch of three responses to prompts of different lengths."""
    models = Models.load(bare_run(), "ppo", value_head=True)
    with torch.no_grad():  # a policy that differs from the reference, and a value head that is not zero
        models.policy.lm.transformer.h[1].mlp.c_proj.weight.mul_(1.5)
        models.policy.value_head.weight.fill_(0.05)
    prompts = [tiny_tokenizer.prompt(text) for text in ("a joy", "a warm film", "the")]
    noise = rng.uniforms(range(3), 8, 1, "test", 0, "rollout")
    responses = generate(models.policy, prompts, noise, tiny_tokenizer, 1.0)
    logits = ModelReward(models.reward_model)(responses)
    rollout, states = score_rollout(models.policy, models.reference, responses, logits, ScoreScale(0, 1, -1), 1.0)
    values = rollout_values(models.policy, states, rollout)
    return tiny_tokenizer, compute_advantages(rollout, values, 0.1, 1.0, 0.95)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_rollout_table_has_the_numbers_of_one_response(rollout, row):
    tokenizer, batch = rollout
    rollout = batch.rollout
    length = int(rollout.responses.response_mask[row].sum())
    page = ppo_tables.rollout_table(tokenizer, batch, row).text
    columns = columns_of(page)
    expected = {
        "log p, policy": rollout.logprobs,
        "log p, reference": rollout.ref_logprobs,
        "KL, sampled": rollout.logprobs - rollout.ref_logprobs,
        "KL, exact": rollout.kl,
        "reward": batch.rewards,
        "value": batch.values,
        "return": batch.returns,
        "advantage": batch.advantages,
    }
    assert list(columns) == ["token", *expected]
    for name, values in expected.items():
        assert columns[name] == pytest.approx(values[row, :length].tolist(), abs=5.1e-3), name
    assert any(abs(value) > 0.01 for value in columns["KL, exact"])
    assert page.startswith(f"<p><i>{('a joy', 'a warm film', 'the')[row]}</i>")
    assert page.partition("</p>")[0].count("<span") == length


def test_before_after_has_one_row_per_prompt():
    lines = [{"prompt": "a", "sft": " bad", "policy": " good", "sft_score": -0.5, "policy_score": 0.9}]
    assert columns_of(ppo_tables.before_after(lines).text) == {
        "prompt": ["a"],
        "SFT": ["bad"],
        "score of SFT": [-0.5],
        "PPO": ["good"],
        "score of PPO": [0.9],
    }


def test_metrics_table_has_one_column_per_model():
    keys = ["judge_positive", "perplexity_ref", "length_mean", "eos_rate", "distinct_1", "distinct_2"]
    sft = dict.fromkeys([*keys, "duplicate_rate"], 0.5)
    sft |= {"score_mean": -0.1, "score_ci95": [-0.2, 0.05], "kl_mean": 0.0}
    ppo = sft | {"score_mean": 0.9, "score_ci95": [0.85, 0.95], "kl_mean": 4.61, "judge_positive": None}
    columns = columns_of(ppo_tables.metrics_table({"SFT": sft, "PPO": ppo}).text)
    assert list(columns) == ["metric", "SFT", "PPO", "meaning"]
    rows = {name: (before, after) for name, before, after in zip(*list(columns.values())[:3], strict=True)}
    assert rows["KL (nats)"] == (0.0, 4.6)
    assert rows["Score"] == ("−0.10 [−0.20, 0.05]", "0.90 [0.85, 0.95]")
    assert rows["Judged positive"] == ("50\N{NO-BREAK SPACE}%", "–")


def test_difference_table_has_paired_intervals():
    evaluation = {
        "sft": {"score_mean": 0.1, "judge_positive": 0.6},
        "policy": {"score_mean": 0.9, "judge_positive": 0.55},
        "meta": {"score_difference_ci95": [0.7, 0.91], "judge_difference_ci95": [-0.1, 0.02]},
    }
    columns = columns_of(ppo_tables.difference_table(evaluation).text)
    assert columns["PPO − SFT"] == [0.8, -5]
    assert columns["95% interval"] == ["[+0.70, +0.91]", "[−10, +2]"]
