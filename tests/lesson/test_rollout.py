import math
import re

import pytest
import torch

from plaudit import rng
from plaudit.algorithms.actors import Actors
from plaudit.algorithms.ppo import answer
from plaudit.algorithms.rollout import ScoreScale, collect, estimate
from plaudit.lesson.rollout import pieces, prompt_of, rollout_table, update_table


@pytest.fixture
def seen(bare_run, tiny_tokenizer):
    """A tokenizer, and the experience and exact KL of three responses to prompts of different lengths."""
    run = bare_run()
    actors = Actors.load(run)
    with torch.no_grad():  # a policy that has moved, and a value head that speaks
        actors.policy.lm.transformer.h[1].mlp.c_proj.weight.mul_(1.5)
        actors.policy.value_head.weight.fill_(0.05)
    prompts = [tiny_tokenizer.prompt(t) for t in ("a joy", "a warm film", "the")]
    responses, logits = answer(actors, prompts, rng.uniforms(range(3), 8, 1, "test", 0, "rollout"), 1.0, run)
    rollout, kl, _ = collect(actors.policy, actors.reference, logits, responses, ScoreScale(0, 1, -1), 1.0, run)
    return tiny_tokenizer, estimate(rollout, 0.1, 1.0, 0.95), kl


def numbers(html):
    """The number columns of a table, by name."""
    heads = re.findall(r"<th[^>]*>(.*?)</th>", html)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)[1:]]
    return {h: [float(r[i].replace("−", "-")) for r in rows] for i, h in enumerate(heads) if i}


def test_every_token_is_shown_with_its_spaces(tiny_tokenizer):
    ids = tiny_tokenizer.response("a joy to")
    shown = pieces(tiny_tokenizer, ids)
    assert len(shown) == len(ids)
    assert "".join(shown) == "a·joy·to<|endoftext|>"


@pytest.mark.parametrize("row", [0, 1, 2])
def test_the_table_holds_the_figures_of_the_response_and_no_padding(seen, row):
    tokenizer, experience, kl = seen
    rollout = experience.rollout
    length = int(rollout.response_mask[row].sum())
    found = numbers(rollout_table(tokenizer, experience, kl, row).text)
    expected = {
        "log p, policy": rollout.logprobs,
        "log p, reference": rollout.ref_logprobs,
        "KL, sampled": rollout.logprobs - rollout.ref_logprobs,
        "KL, exact": kl,
        "reward": experience.rewards,
        "value": rollout.values,
        "return": experience.returns,
        "advantage": experience.advantages,
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values[row, :length].tolist(), abs=5.1e-3), name
    assert any(abs(v) > 0.01 for v in found["KL, exact"])
    assert all(math.isfinite(v) for column in found.values() for v in column)


@pytest.mark.parametrize(("row", "prompt"), [(0, "a joy"), (1, "a warm film"), (2, "the")])
def test_the_text_above_is_prompt_and_response(seen, row, prompt):
    tokenizer, experience, kl = seen
    assert prompt_of(tokenizer, experience, row) == prompt
    page = rollout_table(tokenizer, experience, kl, row).text
    assert page.startswith(f"<p><i>{prompt}</i>")
    assert page.partition("</p>")[0].count("<span") == int(experience.rollout.response_mask[row].sum())


def test_an_update_is_shown_by_what_it_did_to_the_probabilities(seen):
    tokenizer, experience, _ = seen
    old = experience.rollout.logprobs
    found = numbers(update_table(tokenizer, experience, old + math.log(1.1), 0.2, 0).text)
    length = int(experience.rollout.response_mask[0].sum())
    assert found["p before"] == pytest.approx(old[0, :length].exp().tolist(), abs=5.1e-4)
    assert found["p after"] == pytest.approx((1.1 * old[0, :length].exp()).tolist(), abs=5.1e-4)
    assert found["ratio"] == [1.1] * length
    assert found["ratio − 1"] == [0.1] * length
