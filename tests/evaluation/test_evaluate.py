import json

import numpy as np
import pytest

from plaudit import rng
from plaudit.evaluation.evaluate import Answered, Models, figures
from plaudit.evaluation.sample import sample
from plaudit.training.run import Run


def test_figures_by_hand():
    answers = Answered(
        texts=["a b", "a b", "c"],
        tokens=[[1, 2, 0], [1, 2, 0], [3]],
        logits=np.array([0.0, np.log(3), -np.log(3)]),
        ended=np.array([True, True, False]),
        kl=np.array([1.0, 2.0, 6.0]),
        nats_ref=np.array([3.0, 3.0, 1.0]),
    )
    got = figures(answers, np.array([0.9, 0.2, 0.6]), seed=0)
    assert got["score_mean"] == pytest.approx((0 + 0.5 - 0.5) / 3)
    assert got["judge_positive"] == pytest.approx(2 / 3)
    assert got["kl_mean"] == 3.0
    assert got["perplexity_ref"] == pytest.approx(np.e)  # 7 nats over 7 tokens
    assert got["length_mean"] == pytest.approx(7 / 3)
    assert got["eos_rate"] == pytest.approx(2 / 3)
    assert got["duplicate_rate"] == pytest.approx(1 / 3)
    assert got["distinct_1"] == pytest.approx(4 / 7)


def test_both_models_answer_with_the_same_noise(finished_run):
    models = Models(Run.existing(finished_run))
    noise = rng.uniforms(range(2), 8, 0, "test", 0, "noise")
    prompts = [models.tokenizer.prompt("the cast")] * 2
    first, second = models.answer(models.sft, prompts, noise), models.answer(models.sft, prompts, noise)
    assert first.texts == second.texts
    models.policy = models.sft
    before, after = models.compare(prompts, noise)
    assert before.texts == after.texts  # equal models differ in nothing but their weights
    assert before.kl.max() == pytest.approx(0, abs=1e-5)


def test_evaluation_prompts_were_not_met_in_training(finished_run, tiny_config):
    from plaudit.data.corpus import load
    from plaudit.data.prompts import cut_prompts

    asked = {json.loads(line)["prompt"] for line in (finished_run / "responses.jsonl").read_text().splitlines()}
    c = tiny_config
    met = set(cut_prompts(load(c.data).prompts, c.prompt_min, c.prompt_max, c.seed))
    assert asked
    assert not asked & met


def test_samples_are_repeatable_and_in_range(finished_run):
    a = sample(finished_run, "the cast", n=3, seed=5)
    assert a == sample(finished_run, "the cast", n=3, seed=5)
    assert a != sample(finished_run, "the cast", n=3, seed=6)
    assert len(a) == 3
    assert all(-1 <= s.sft_score <= 1 and -1 <= s.policy_score <= 1 for s in a)


def test_the_judge_is_asked_about_the_responses_and_not_the_reward_model(finished_run):
    from plaudit.evaluation.judge import imdb_judge

    lines = [json.loads(line) for line in (finished_run / "responses.jsonl").read_text().splitlines()]
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    judge = imdb_judge()
    for who in ("sft", "policy"):
        verdicts = judge.positive([line[who] for line in lines])
        assert verdicts.tolist() == pytest.approx([line[f"{who}_judge"] for line in lines], abs=1e-6)
        assert evaluation[who]["judge_positive"] == pytest.approx((verdicts > 0.5).mean())
