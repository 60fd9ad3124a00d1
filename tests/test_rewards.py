import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from plaudit.algorithms.ppo import ppo
from plaudit.batches import Responses
from plaudit.errors import RewardError, RunError
from plaudit.evaluation.doctor import doctor
from plaudit.evaluation.evaluate import evaluate
from plaudit.evaluation.frontier import frontier
from plaudit.pipeline import check, steps
from plaudit.rewards import FunctionReward, ModelReward, reward_name
from plaudit.training.run import STAGES, Run

WITHOUT_REWARD_MODEL = tuple(stage for stage in STAGES if stage != "reward_model")


def shortness(prompts, responses):
    """Minus the number of characters of each response."""
    return [-len(response) for response in responses]


def length(prompts, responses):
    """The number of characters of each response."""
    return [len(response) for response in responses]


@pytest.fixture
def run(tmp_path, finished_run, tiny_config):
    """A run with an SFT model and no reward model."""
    shutil.copytree(finished_run / "sft", tmp_path / "run" / "sft")
    shutil.copy(finished_run / "config.toml", tmp_path / "run")
    return Run(tmp_path / "run", tiny_config)


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory, tiny_config):
    """The whole pipeline without a reward model, and its reports."""
    run = Run.open(
        tmp_path_factory.mktemp("rewarded") / "run",
        tiny_config,
        resume=False,
        overwrite=False,
        stages=WITHOUT_REWARD_MODEL,
    )
    return run, list(steps(run, WITHOUT_REWARD_MODEL, shortness))


def some_responses(tokenizer, pairs):
    """Prompts and responses as a batch of token ids."""
    ids = [(tokenizer.prompt(prompt), tokenizer.response(response)) for prompt, response in pairs]
    left, right = (max(len(pair[side]) for pair in ids) for side in (0, 1))
    rows = [[255] * (left - len(p)) + p + r + [255] * (right - len(r)) for p, r in ids]
    mask = [[False] * (left - len(p)) + [True] * (len(p) + len(r)) + [False] * (right - len(r)) for p, r in ids]
    attention_mask = torch.tensor(mask)
    return Responses(torch.tensor(rows), attention_mask, attention_mask[:, left:], torch.ones(len(ids)).bool())


PAIRS = [("a warm", " and moving film"), ("the cast", " is dreadful"), ("ÿ", " café")]


def test_a_function_gets_prompts_and_responses_as_texts(tiny_tokenizer):
    given = []

    def recorded(prompts, responses):
        given.extend(zip(prompts, responses, strict=True))
        return np.array([1.5, -2, 0])

    reward = FunctionReward(recorded, tiny_tokenizer)
    raw = reward(some_responses(tiny_tokenizer, PAIRS))
    assert given == PAIRS
    assert raw.tolist() == [1.5, -2, 0]
    assert torch.equal(reward.shown(raw), raw)
    assert reward.name == "recorded"
    assert reward.score_range is None


def test_a_callable_object_is_named_by_its_class(tiny_tokenizer):
    class Politeness:
        def __call__(self, prompts, responses):
            return [0.0] * len(responses)

    assert FunctionReward(Politeness(), tiny_tokenizer).name == "Politeness"


def test_a_reward_model_s_logit_is_shown_between_minus_1_and_1():
    reward = ModelReward(lambda ids, mask: torch.tensor([0.0, math.log(3), -math.log(9)]))
    assert reward.score_range == (-1.0, 1.0)
    assert reward.shown(reward.model(None, None)).tolist() == pytest.approx([0.0, 0.5, -0.8])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompts, responses: [1.0], "': returned 1 numbers for 3 responses"),
        (lambda prompts, responses: [1.0, math.nan, 2.0], "returned nan for the response ' is dreadful' to 'the cast'"),
        (lambda prompts, responses: [1.0, 2.0, -math.inf], "returned -inf for the response ' café' to 'ÿ'"),
    ],
)
def test_what_is_not_one_finite_number_for_each_response_is_refused(tiny_tokenizer, function, message):
    with pytest.raises(RewardError) as caught:
        FunctionReward(function, tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("returned", [None, "good", [[1, 2], [3], [4]], [None, 1, 2], 1.0])
def test_what_is_not_a_list_of_numbers_is_refused_in_one_line(tiny_tokenizer, returned):
    def wrong(prompts, responses):
        return returned

    with pytest.raises(RewardError, match="reward 'wrong': must return one number for each response, not"):
        FunctionReward(wrong, tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))


def test_an_error_inside_the_function_reaches_the_caller_as_it_is(run):
    def broken(prompts, responses):
        raise ZeroDivisionError("my own mistake")

    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        next(ppo(run, broken))


@pytest.mark.parametrize(("reward", "sign"), [(length, 1), (shortness, -1)])
def test_a_reward_for_length_changes_the_length_in_a_few_iterations(run, reward, sign):
    settings = dataclasses.replace(run.config.ppo, iterations=8, batch_size=32, minibatch_size=16, lr=3e-3, kl_coef=0.0)
    settings = dataclasses.replace(settings, missing_eos_penalty=0.0)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, ppo=settings))
    metrics = [report.metrics for report in ppo(run, reward)]
    assert sign * (metrics[-1]["response_length"] - metrics[0]["response_length"]) > 2
    assert metrics[-1]["score"] > metrics[0]["score"]


def test_the_score_in_the_metrics_is_the_mean_that_the_function_returns(run):
    returned = []

    def recorded(prompts, responses):
        returned.append(length(prompts, responses))
        return returned[-1]

    (first, *_) = ppo(run, recorded)
    assert first.metrics["score"] == pytest.approx(np.mean(returned[1]))  # the first call measures the scale
    assert run.summary("ppo")["scale"]["mean"] == pytest.approx(np.mean(returned[0]), rel=1e-5)
    assert run.summary("ppo")["reward"] == "recorded"


def test_ppo_without_a_reward_model_or_a_reward_is_refused(run):
    with pytest.raises(RunError, match="no finished reward_model here; run: plaudit reward-model"):
        next(ppo(run))
    with pytest.raises(RunError, match="no finished reward_model here"):
        check(run.config, run.path, ("ppo",))
    check(run.config, run.path, ("ppo",), shortness)


def test_the_pipeline_runs_without_a_reward_model(rewarded):
    run, reports = rewarded
    assert list(dict.fromkeys(report.stage for report in reports)) == list(WITHOUT_REWARD_MODEL)
    assert not run.folder("reward_model").exists()
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    assert evaluation["meta"]["reward"] == "shortness"
    assert evaluation["meta"]["score_range"] is None
    lines = [json.loads(line) for line in (run.path / "responses.jsonl").read_text().splitlines()]
    assert evaluation["policy"]["score_mean"] == pytest.approx(np.mean([-len(line["policy"]) for line in lines]))
    assert evaluation["sft"]["score_mean"] == pytest.approx(np.mean([-len(line["sft"]) for line in lines]))
    assert list(steps(run, WITHOUT_REWARD_MODEL, shortness)) == []  # finished


@pytest.mark.parametrize(("reward", "name"), [(length, "the reward 'length'"), (None, "the reward model")])
def test_a_policy_that_was_trained_for_another_reward_is_refused(rewarded, reward, name):
    run, _ = rewarded
    with pytest.raises(RunError, match=f"its ppo was trained for the reward 'shortness', not for {name}"):
        list(steps(run, ("sft", "ppo"), reward))


def test_evaluation_says_which_reward_and_on_what_scale(finished_run, tmp_path):
    meta = json.loads((finished_run / "evaluation.json").read_text())["meta"]
    assert (meta["reward"], meta["score_range"]) == ("reward model", [-1, 1])
    shutil.copytree(finished_run, tmp_path / "run")
    list(evaluate(Run.existing(tmp_path / "run"), length))
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (evaluation["meta"]["reward"], evaluation["meta"]["score_range"]) == ("length", None)
    assert evaluation["policy"]["score_mean"] > 1


def test_the_frontier_runs_without_a_reward_model(rewarded):
    run, _ = rewarded
    list(frontier(run, [run.config.ppo.kl_coef], draws=4, reward=shortness))
    content = json.loads((run.path / "frontier.json").read_text())
    scores = [point["score_mean"] for point in content["best_of_n"]]
    assert scores == sorted(scores)
    assert content["ppo"][-1]["score_mean"] < 0  # minus a number of characters
    *path, own = content["ppo"]
    assert path[-1] == own  # trained again with the same settings and the same reward
    inputs = json.loads((next(run.path.glob("frontier/kl_coef-*")) / "ppo" / "inputs.json").read_text())
    assert (inputs["reward"], list(inputs["inputs"])) == ("shortness", ["sft"])


def test_preflight_checks_run_without_a_reward_model(run):
    checks = doctor(run, "ppo", reward=shortness)
    assert all(check.ok or not check.stops for check in checks)
    assert not [check for check in checks if "reward model" in check.name]


def test_the_fingerprint_of_the_policy_has_the_name_of_its_reward(run):
    reports = ppo(run, shortness)
    next(reports)
    next(reports)
    reports.close()
    inputs = json.loads((run.folder("ppo") / "inputs.json").read_text())
    assert inputs["reward"] == "shortness"
    assert inputs["inputs"].keys() == {"sft"}
    with pytest.raises(RunError, match="other settings"):
        next(ppo(run, length))
    assert next(ppo(run, shortness)).step == 3


def test_two_lambdas_are_told_apart_by_their_places():
    one, other = (
        lambda prompts, responses: [1.0] * len(responses),
        lambda prompts, responses: [2.0] * len(responses),
    )
    assert reward_name(one) != reward_name(other)
    assert re.fullmatch(r"<lambda> in test_rewards\.py, line \d+", reward_name(one))
