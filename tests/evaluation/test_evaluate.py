import json

import numpy as np
import pytest
import torch
from tiny import make_lm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from plaudit import rng
from plaudit.evaluation.evaluate import Answered, Models, evaluate, figures
from plaudit.evaluation.judge import Judge
from plaudit.evaluation.sample import sample
from plaudit.models.loading import save
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


@pytest.fixture(params=[2, 1], ids=["all blocks", "top block"])
def two_models(request, bare_run, tiny_tokenizer):
    """A run whose policy is another random model than its SFT model, in both blocks or in the top one."""
    run = bare_run(max_new_tokens=8, temperature=0.7, train_layers=request.param, reward_on_sft=request.param == 1)
    policy = make_lm(seed=2)
    if request.param == 1:
        own, policy = policy, make_lm()
        policy.transformer.h[1] = own.transformer.h[1]
    save(policy, tiny_tokenizer, run.folder("ppo"))
    run.finish("ppo", {})
    return run


def test_answers_are_measured_as_other_code_measures_them_one_by_one(two_models):
    models = Models(two_models)
    tokenizer = models.tokenizer
    prompts = [tokenizer.prompt(t) for t in ("the cast", "a dull and tired film", "a joy")]
    noise = rng.uniforms(range(3), 8, 0, "test", 0, "noise")
    sft, policy, reward_model = (
        kind.from_pretrained(two_models.folder(stage)).eval()
        for kind, stage in (
            (AutoModelForCausalLM, "sft"),
            (AutoModelForCausalLM, "ppo"),
            (AutoModelForSequenceClassification, "reward_model"),
        )
    )
    for lm, answers in zip((sft, policy), models.compare(prompts, noise), strict=True):
        for i, prompt in enumerate(prompts):
            said = answers.tokens[i]
            ids = torch.tensor([prompt + said])
            with torch.no_grad():
                logp, ref = ((m(ids).logits[0, -len(said) - 1 : -1].double() / 0.7).log_softmax(-1) for m in (lm, sft))
                logit = reward_model(ids).logits[0, 0].item()
            drawn = [int(torch.searchsorted(p, u)) for p, u in zip(logp.exp().cumsum(-1), noise[i], strict=False)]
            assert said == drawn  # of this model, to this prompt, with this noise
            assert len(said) == 8 or said[-1] == tokenizer.eos_id
            assert tokenizer.text(prompt) + answers.texts[i] == tokenizer.text(prompt + said)
            assert answers.kl[i] == pytest.approx((logp.exp() * (logp - ref)).sum().item(), abs=1e-3)
            assert answers.nats_ref[i] == pytest.approx(-sum(ref[t, s].item() for t, s in enumerate(said)), abs=1e-3)
            assert answers.logits[i] == pytest.approx(logit, abs=1e-4)


@pytest.mark.parametrize("two_models", [2], indirect=True, ids=["all blocks"])
def test_the_verdicts_are_those_of_a_judge_that_is_shown_the_responses_alone(two_models, monkeypatch):
    class Vowels(Judge):
        """A judge with a mind of its own."""

        def __init__(self):
            self.accuracy_imdb = 1.0

        def positive(self, texts):
            return np.array([sum(c in "aeiou" for c in t) / max(1, len(t)) > 0.25 for t in texts], dtype=float)

        def accuracy(self, labelled):
            return 1.0

    monkeypatch.setattr("plaudit.evaluation.evaluate.imdb_judge", Vowels)
    monkeypatch.setattr("plaudit.evaluation.evaluate.write_report", lambda path: None)
    list(evaluate(two_models.config, two_models))
    lines = [json.loads(line) for line in (two_models.path / "responses.jsonl").read_text().splitlines()]
    evaluation = json.loads((two_models.path / "evaluation.json").read_text())
    assert len(lines) == 16
    for who in ("sft", "policy"):
        assert not any(line[who].startswith(line["prompt"]) for line in lines)
        verdicts = Vowels().positive([line[who] for line in lines])
        assert 0 < verdicts.mean() < 1
        assert [line[f"{who}_judge"] for line in lines] == verdicts.tolist()
        assert evaluation[who]["judge_positive"] == verdicts.mean()
        low, high = evaluation[who]["score_ci95"]
        assert low < evaluation[who]["score_mean"] < high
    # The difference is paired: its interval is that of the mean of differences, not of two means.
    paired = np.array([line["policy_score"] - line["sft_score"] for line in lines])
    low, high = evaluation["meta"]["score_difference_ci95"]
    assert (low + high) / 2 == pytest.approx(paired.mean(), abs=0.2 * paired.std())
    assert (high - low) / 2 == pytest.approx(1.96 * paired.std() / np.sqrt(len(paired)), rel=0.15)


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
