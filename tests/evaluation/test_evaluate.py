import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from tiny import make_lm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from plaudit import rng
from plaudit.cli import main
from plaudit.data.prompts import cut_prompts
from plaudit.errors import DataError, ModelError, RunError
from plaudit.evaluation.evaluate import Answers, Measurement, evaluate, figures, policy_stage
from plaudit.evaluation.judge import Judge, imdb_judge
from plaudit.models.loading import save
from plaudit.pipeline import steps
from plaudit.training import dist
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import Run


def read(path) -> dict:
    return json.loads((path / "evaluation.json").read_text())


def test_figures_by_hand():
    answers = Answers(
        texts=["a b", "a b", "c"],
        tokens=[[1, 2, 0], [1, 2, 0], [3]],
        raw_scores=np.array([0.0, np.log(3), -np.log(3)]),
        scores=np.array([0.0, 0.5, -0.5]),
        ended=np.array([True, True, False]),
        kl=np.array([1.0, 2.0, 6.0]),
        nats_ref=np.array([3.0, 3.0, 1.0]),
        parts={"polite": np.array([1.0, 2.0, 6.0])},
    )
    got = figures(answers, np.array([0.9, 0.2, 0.6]), seed=0)
    assert got["score_mean"] == 0
    assert got["judge_positive"] == pytest.approx(2 / 3)
    assert got["kl_mean"] == 3.0
    assert got["parts"] == {"polite": 3.0}
    assert got["perplexity_ref"] == pytest.approx(np.e)  # 7 nats over 7 tokens
    assert got["length_mean"] == pytest.approx(7 / 3)
    assert got["eos_rate"] == pytest.approx(2 / 3)
    assert got["duplicate_rate"] == pytest.approx(1 / 3)
    assert got["distinct_1"] == pytest.approx(4 / 7)
    assert got["distinct_2"] == pytest.approx(2 / 4)


def test_equal_models_give_equal_answers_to_the_same_noise(finished_run):
    measurement = Measurement(Run.existing(finished_run), "ppo")
    noise = rng.uniforms(range(2), 8, 0, "test", 0, "noise")
    prompts = [measurement.tokenizer.prompt("the cast")] * 2
    measurement.policy = measurement.sft
    sft, policy = measurement.compare(prompts, noise)
    assert sft.texts == policy.texts
    assert sft.kl.max() == pytest.approx(0, abs=1e-5)


@pytest.fixture(params=[2, 1], ids=["all layers", "top layer"])
def two_models(request, bare_run, tiny_tokenizer):
    """A run whose policy differs from its SFT model: in both layers, or in the top layer only."""
    run = bare_run(max_new_tokens=8, temperature=0.7, train_layers=request.param, reward_on_sft=request.param == 1)
    policy = make_lm(seed=2)
    if request.param == 1:
        own, policy = policy, make_lm()
        policy.transformer.h[1] = own.transformer.h[1]
    save(policy, tiny_tokenizer, run.folder("ppo"))
    run.finish("ppo", {})
    return run


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_the_figures_of_a_response_are_those_of_transformers_own_forward_pass(two_models, engine):
    run = Run(two_models.path, dataclasses.replace(two_models.config, engine=engine))
    measurement = Measurement(run, "ppo")
    tokenizer = measurement.tokenizer
    prompts = [tokenizer.prompt(t) for t in ("the cast", "a dull and tired film", "a joy")]
    noise = rng.uniforms(range(3), 8, 0, "test", 0, "noise")
    sft, policy, reward_model = (
        kind.from_pretrained(run.folder(stage)).eval()
        for kind, stage in (
            (AutoModelForCausalLM, "sft"),
            (AutoModelForCausalLM, "ppo"),
            (AutoModelForSequenceClassification, "reward_model"),
        )
    )
    for lm, answers in zip((sft, policy), measurement.compare(prompts, noise), strict=True):
        for i, prompt in enumerate(prompts):
            response = answers.tokens[i]
            ids, n = torch.tensor([prompt + response]), len(response)
            with torch.no_grad():
                logp, ref = ((m(ids).logits[0, -n - 1 : -1].double() / 0.7).log_softmax(-1) for m in (lm, sft))
                logit = reward_model(ids).logits[0, 0].item()
            drawn = [int(torch.searchsorted(p, u)) for p, u in zip(logp.exp().cumsum(-1), noise[i], strict=False)]
            assert response == drawn
            assert n == 8 or response[-1] == tokenizer.eos_id
            assert answers.ended[i] == (response[-1] == tokenizer.eos_id)
            assert tokenizer.text(prompt) + answers.texts[i] == tokenizer.text(prompt + response)
            assert answers.kl[i] == pytest.approx((logp.exp() * (logp - ref)).sum().item(), abs=1e-3)
            nats = -sum(ref[t, token].item() for t, token in enumerate(response))
            assert answers.nats_ref[i] == pytest.approx(nats, abs=1e-3)
            assert answers.raw_scores[i] == pytest.approx(logit, abs=1e-4)
            assert answers.scores[i] == pytest.approx(2 / (1 + np.exp(-logit)) - 1, abs=1e-4)


def vowels(texts, prompts=()):
    """Positive where more than a quarter of the characters are vowels."""
    return np.array([sum(c in "aeiou" for c in t) / max(1, len(t)) > 0.25 for t in texts], dtype=float)


@pytest.mark.parametrize("two_models", [2], indirect=True, ids=["all layers"])
def test_the_judge_reads_the_responses_without_their_prompts(two_models, monkeypatch):
    monkeypatch.setattr("plaudit.evaluation.evaluate.judge_for", lambda *data: (Judge("vowels", "vowels", vowels), ""))
    list(evaluate(two_models))
    lines, evaluation = read_jsonl(two_models.path / "responses.jsonl"), read(two_models.path)
    assert len(lines) == 16
    for model in ("sft", "policy"):
        assert not any(line[model].startswith(line["prompt"]) for line in lines)
        verdicts = vowels([line[model] for line in lines])
        assert 0 < verdicts.mean() < 1
        assert [line[f"{model}_judge"] for line in lines] == verdicts.tolist()
        assert evaluation[model]["judge_positive"] == verdicts.mean()
        low, high = evaluation[model]["score_ci95"]
        assert low < evaluation[model]["score_mean"] < high
    # The interval of the difference is that of the mean of paired differences, not of two means.
    paired = np.array([line["policy_score"] - line["sft_score"] for line in lines])
    low, high = evaluation["meta"]["score_difference_ci95"]
    assert (low + high) / 2 == pytest.approx(paired.mean(), abs=0.2 * paired.std())
    assert (high - low) / 2 == pytest.approx(1.96 * paired.std() / np.sqrt(len(paired)), rel=0.15)


def test_the_verdicts_are_those_of_the_shipped_judge(finished_run):
    lines, evaluation = read_jsonl(finished_run / "responses.jsonl"), read(finished_run)
    for model in ("sft", "policy"):
        verdicts = imdb_judge().positive([line[model] for line in lines])
        assert verdicts.tolist() == pytest.approx([line[f"{model}_judge"] for line in lines], abs=1e-6)
        assert evaluation[model]["judge_positive"] == pytest.approx((verdicts > 0.5).mean())


def test_the_evaluation_prompts_are_not_in_the_training_prompts(finished_run):
    run = Run.existing(finished_run)
    asked = {line["prompt"] for line in read_jsonl(finished_run / "responses.jsonl")}
    c = run.config
    assert asked
    assert not asked & set(cut_prompts(run.data.prompts, c.prompt_min, c.prompt_max, c.seed))


def test_each_model_has_an_entry_by_its_folder_and_the_policy_a_second_one(finished_run):
    evaluation = read(finished_run)
    assert evaluation.keys() == {"sft", "ppo", "policy", "meta"}
    assert evaluation["policy"] == evaluation["ppo"] != evaluation["sft"]
    assert evaluation["sft"].keys() == {
        "score_mean", "score_ci95", "judge_positive", "kl_mean", "kl_ci95", "perplexity_ref", "distinct_1",
        "distinct_2", "length_mean", "eos_rate", "duplicate_rate", "parts",
    }  # fmt: skip
    assert evaluation["sft"]["kl_mean"] == pytest.approx(0, abs=1e-5)
    assert evaluation["meta"]["wall_seconds"].keys() == {"sft", "reward_model", "ppo", "evaluation"}


def test_the_batch_size_does_not_change_the_figures(tmp_path, finished_run, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "run")
    config = Run.existing(tmp_path / "run").config
    run = Run(
        tmp_path / "run", dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, batch_size=5))
    )
    monkeypatch.setattr("plaudit.evaluation.evaluate.write_report", lambda path: None)
    reports = list(evaluate(run))
    assert [(r.step, r.total) for r in reports] == [(i, 5) for i in range(1, 6)]  # 5, 5, 5 and 1 prompts, then figures
    for model in ("sft", "policy"):
        for name, figure in read(run.path)[model].items():
            assert figure == pytest.approx(read(finished_run)[model][name], abs=1e-5), name


@pytest.fixture
def reinforced(tmp_path, finished_run):
    """A run whose policy is REINFORCE's, from the SFT and reward model of the finished run."""
    run = Run.existing(finished_run)
    settings = dataclasses.replace(
        run.config.reinforce, iterations=3, batch_size=16, minibatch_size=16, max_new_tokens=8
    )
    config = dataclasses.replace(run.config, reinforce=settings)
    branch = run.branch(tmp_path / "reinforced", config, ("sft", "reward_model"))
    list(steps(branch, ("reinforce",)))
    return branch


def test_a_run_with_another_algorithm_than_ppo_is_evaluated(reinforced):
    assert policy_stage(reinforced) == "reinforce"
    assert main(["eval", str(reinforced.path)]) == 0
    evaluation = read(reinforced.path)
    assert evaluation.keys() == {"sft", "reinforce", "policy", "meta"}
    assert evaluation["policy"] == evaluation["reinforce"]
    assert evaluation["policy"]["kl_mean"] > 0
    assert evaluation["policy"]["length_mean"] <= 8
    assert evaluation["meta"]["wall_seconds"].keys() == {"sft", "reward_model", "reinforce", "evaluation"}
    assert (reinforced.path / "report.html").exists()
    Run.open(reinforced.path, reinforced.config, resume=False, overwrite=True, stages=("reinforce",))
    assert not (reinforced.path / "evaluation.json").exists()
    assert main(["eval", str(reinforced.path)]) == 1


def length(prompts, responses):
    return [float(len(response)) for response in responses]


def test_a_reward_function_takes_the_place_of_the_reward_model(tmp_path, finished_run, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("reward_model"))
    run = Run.existing(tmp_path / "run")
    monkeypatch.setattr("plaudit.evaluation.evaluate.write_report", lambda path: None)
    list(evaluate(run, reward=length))
    evaluation, lines = read(run.path), read_jsonl(run.path / "responses.jsonl")
    assert (evaluation["meta"]["reward"], evaluation["meta"]["score_range"]) == ("length", None)
    for model in ("sft", "policy"):
        assert [line[f"{model}_score"] for line in lines] == [len(line[model]) for line in lines]
        assert evaluation[model]["score_mean"] == pytest.approx(np.mean([len(line[model]) for line in lines]))


def test_what_cannot_be_evaluated_is_refused(cpu_run, finished_run):
    with pytest.raises(RunError, match="no finished policy here; run: plaudit ppo --out"):
        next(evaluate(cpu_run))
    run = Run.existing(finished_run)
    with pytest.raises(
        DataError,
        match="the evaluation needs at least 2 held-out prompts, and the data gives 0; add records with other prompts",
    ):
        next(evaluate(Run(run.path, dataclasses.replace(run.config, prompt_min=50, prompt_max=60))))
    long = dataclasses.replace(run.config, ppo=dataclasses.replace(run.config.ppo, max_new_tokens=64))
    with pytest.raises(ModelError, match="do not fit into the model's window of 64 tokens"):
        next(evaluate(Run(run.path, long)))


@pytest.mark.parametrize("two_models", [2], indirect=True, ids=["all layers"])
def test_rank_0_asks_the_judge_for_all_ranks(two_models, monkeypatch):
    for_all, asked = [False], []

    def on_main(call):
        for_all.append(True)
        try:
            return call()
        finally:
            for_all.pop()

    def judge_for(*data):
        asked.append(for_all[-1])  # it measures the judge on held-out texts
        return Judge("none", "nothing", lambda texts, prompts: asked.append(for_all[-1]) or np.zeros(len(texts))), ""

    monkeypatch.setattr(dist, "on_main", on_main)
    monkeypatch.setattr("plaudit.evaluation.evaluate.judge_for", judge_for)
    list(evaluate(two_models))
    assert asked == [True] * 3
    assert read(two_models.path)["meta"]["judge"] == {"name": "none", "domain": "nothing"}
