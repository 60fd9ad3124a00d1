"""Faults that no other test would catch; tests/faults.py puts each into the library."""

import pytest
import torch
from tiny import make_lm

from plaudit import rng
from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_loss
from plaudit.models.fast.engine import FastEngine
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import pad_left
from plaudit.rewards import FunctionReward
from plaudit.training.rollouts import ScoreScale, generate, score_rollout

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22], [0, 8, 8, 8, 8]]
LIMIT = 6


@pytest.fixture(params=["plain", "fast"])
def policy(request, tmp_path):
    engine = PlainEngine() if request.param == "plain" else FastEngine(torch.float32, tmp_path)
    lm = make_lm().eval()
    engine.prepare(lm)
    return Policy(lm, engine, value_head=False).eval()


def noise():
    return rng.uniforms(range(len(PROMPTS)), LIMIT, 0, "test", 0, "noise")


def test_all_prompts_are_continued_in_the_same_forward_passes(policy):
    passes = []
    policy.lm.transformer.h[0].register_forward_hook(lambda *_: passes.append(1))
    policy.engine.generate(policy.lm, *pad_left(PROMPTS, 255), noise(), [0], 255)
    assert len(passes) <= LIMIT


def test_reinforce_learns_at_the_temperature_of_the_rollout(policy, tiny_tokenizer):
    """Before the first step the log-probabilities of the loss are those of the rollout."""
    responses = generate(policy, PROMPTS, noise(), tiny_tokenizer, 0.7)
    raw = torch.zeros(len(PROMPTS))
    rollout, _ = score_rollout(policy, make_lm(seed=1).eval(), responses, raw, ScoreScale(0.0, 1.0, -1.0), 0.7)
    advantages = torch.tensor([1.0, -2.0, 3.0, -4.0])
    (loss, _), _ = reinforce_loss(policy, ReinforceBatch(rollout, advantages), 0.7)
    assert loss.item() == pytest.approx(-(advantages @ rollout.logprobs.sum(1)).item(), rel=1e-4)


def test_a_custom_reward_gets_prompts_and_then_responses(policy, tiny_tokenizer):
    def reward(prompts, responses):
        given.append((prompts, responses))
        return range(len(prompts))

    given = []
    prompts = [tiny_tokenizer.prompt(text) for text in ("the cast", "a joy to")]
    responses = generate(policy, prompts, noise()[:2], tiny_tokenizer, 1.0)
    assert FunctionReward(reward, tiny_tokenizer)(responses).tolist() == [0, 1]
    texts = [tiny_tokenizer.text(prompt + tokens) for prompt, tokens in zip(prompts, responses.tokens(), strict=True)]
    assert given == [(["the cast", "a joy to"], [texts[0][len("the cast") :], texts[1][len("a joy to") :]])]
