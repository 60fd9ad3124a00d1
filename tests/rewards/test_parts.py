import dataclasses
import json
import math
import re
import shutil
import signal
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaudit.algorithms.ppo import ppo
from plaudit.batches import Responses
from plaudit.errors import RewardError, RunError
from plaudit.evaluation.doctor import doctor
from plaudit.evaluation.evaluate import evaluate
from plaudit.evaluation.frontier import frontier
from plaudit.pipeline import check, steps
from plaudit.rewards import FunctionReward, ModelReward, Part, Reward
from plaudit.rewards.sources import reward_name
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
    received = []

    def recorded(prompts, responses):
        received.extend(zip(prompts, responses, strict=True))
        return np.array([1.5, -2, 0])

    raw = FunctionReward(recorded, tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))
    assert received == PAIRS
    assert raw.tolist() == [1.5, -2, 0]


def test_a_function_that_asks_for_token_ids_gets_them(tiny_tokenizer):
    def counted(prompts, responses, response_ids, prompt_ids):
        return [100 * len(p) + len(r) for p, r in zip(prompt_ids, response_ids, strict=True)]

    raw = FunctionReward(counted, tiny_tokenizer, timeout=60)(some_responses(tiny_tokenizer, PAIRS))
    assert raw.tolist() == [100 * len(tiny_tokenizer.prompt(p)) + len(tiny_tokenizer.response(r)) for p, r in PAIRS]


def test_a_callable_object_is_named_by_its_class():
    class Politeness:
        def __call__(self, prompts, responses):
            return [0.0] * len(responses)

    assert reward_name(Politeness()) == "Politeness"


def test_the_score_is_the_weighted_sum_of_the_parts(tiny_tokenizer):
    batch = some_responses(tiny_tokenizer, PAIRS)
    model = Part("model", 0.5, ModelReward(lambda ids, mask: torch.tensor([1.0, 2.0, -3.0])))
    reward = Reward((model, Part("length", -2.0, FunctionReward(length, tiny_tokenizer))), "both")
    measured = reward.measured(batch)
    assert {name: values.tolist() for name, values in measured.items()} == {
        "model": [1.0, 2.0, -3.0],
        "length": [len(r) for _, r in PAIRS],
    }
    expected = [0.5 * m - 2 * len(r) for m, (_, r) in zip([1.0, 2.0, -3.0], PAIRS, strict=True)]
    assert reward(batch).tolist() == reward.shown(reward.total(measured)).tolist() == expected
    assert reward.score_range is None


def test_a_reward_model_s_logit_is_shown_between_minus_1_and_1():
    logits = torch.tensor([0.0, math.log(3), -math.log(9)])
    reward = Reward((Part("model", 1.0, ModelReward(lambda ids, mask: logits)),))
    assert reward.score_range == (-1.0, 1.0)
    assert reward.shown(logits).tolist() == pytest.approx([0.0, 0.5, -0.8])


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


@pytest.mark.parametrize(
    "returned",
    [None, "bad", [[1, 2], [3], [4]], [None, 1, 2], 1.0, ["1", "2", "3"], {"a": 1}, np.zeros((3, 2)), {1, 2}],
)
def test_what_is_not_a_list_of_numbers_is_refused_in_one_line(tiny_tokenizer, returned):
    def wrong(prompts, responses):
        return returned

    with pytest.raises(RewardError, match="reward 'wrong': must return one number for each response, not"):
        FunctionReward(wrong, tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))


@pytest.mark.parametrize("timeout", [0, 60])
@pytest.mark.parametrize("bad", range(3))
def test_a_function_that_raises_is_named_with_its_line_and_the_text(tiny_tokenizer, timeout, bad):
    def broken(prompts, responses):
        return [1 / (response != PAIRS[bad][1]) for response in responses]

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(RewardError) as caught:
        FunctionReward(broken, tiny_tokenizer, timeout=timeout)(some_responses(tiny_tokenizer, PAIRS))
    prompt, response = PAIRS[bad]
    assert str(caught.value) == (
        f"reward 'broken': ZeroDivisionError: division by zero (test_parts.py, line {line}) "
        f"for the response {response!r} to {prompt!r}"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_that_no_text_alone_causes_is_one_of_all_together(tiny_tokenizer):
    def broken(prompts, responses):
        assert len(responses) < 3, "too many\nat once"
        return [0.0] * len(responses)

    with pytest.raises(
        RewardError, match=r"AssertionError: too many at once .* for 3 responses together, and for no part"
    ):
        FunctionReward(broken, tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))


@pytest.mark.parametrize("wait", ["sleep", "loop"])
def test_a_function_that_hangs_is_named_with_its_line_and_the_text(tiny_tokenizer, wait):
    def hanging(prompts, responses):
        if " is dreadful" in responses:
            while wait == "loop" or time.sleep(30) is None:
                pass
        return [0.0] * len(responses)

    line, began = hanging.__code__.co_firstlineno, time.monotonic()
    with pytest.raises(RewardError) as caught:
        FunctionReward(hanging, tiny_tokenizer, timeout=0.8)(some_responses(tiny_tokenizer, PAIRS))
    assert time.monotonic() - began < 20
    text = str(caught.value)
    assert re.match(rf"reward 'hanging': no answer in 0.8 s \(test_parts.py, line ({line + 2}|{line + 3})\) ", text)
    assert text.endswith("for the response ' is dreadful' to 'the cast'; raise reward_timeout if it is only slow")
    again = FunctionReward(length, tiny_tokenizer, timeout=60)(some_responses(tiny_tokenizer, PAIRS))
    assert again.tolist() == [len(r) for _, r in PAIRS]  # in a new thread


def test_ctrl_c_ends_a_call_that_hangs_and_the_next_call_works(tiny_tokenizer):
    reward = FunctionReward(lambda prompts, responses: time.sleep(30), tiny_tokenizer, timeout=60)
    main, began = threading.main_thread().ident, time.monotonic()
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        reward(some_responses(tiny_tokenizer, PAIRS))
    assert time.monotonic() - began < 20
    assert FunctionReward(length, tiny_tokenizer, timeout=60)(some_responses(tiny_tokenizer, PAIRS)).numel() == 3


def test_every_call_is_made_in_one_thread_that_is_not_the_main_one(tiny_tokenizer):
    seen = []

    def recorded(prompts, responses):
        seen.append(threading.current_thread())
        return [0] * len(responses)

    for _ in range(2):
        FunctionReward(recorded, tiny_tokenizer, timeout=60)(some_responses(tiny_tokenizer, PAIRS))
    FunctionReward(recorded, tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))  # no limit
    assert seen[0] is seen[1] is not threading.main_thread()
    assert seen[2] is threading.main_thread()


@pytest.mark.parametrize(
    "made",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        iter,
        lambda values: np.array(values, dtype=np.float16),
        lambda values: torch.tensor(values, requires_grad=True),
        lambda values: [torch.tensor(v) for v in values],
        lambda values: [Fraction(v) for v in values],
    ],
)
def test_numbers_may_come_in_any_container_of_numbers(tiny_tokenizer, made):
    values = [1.5, -2.0, 0.25]
    raw = FunctionReward(lambda prompts, responses: made(values), tiny_tokenizer)(some_responses(tiny_tokenizer, PAIRS))
    assert raw.tolist() == values


@given(st.lists(st.one_of(st.floats(width=32), st.integers(), st.none(), st.text(), st.booleans()), max_size=5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_returned_is_the_scores_or_one_line(tiny_tokenizer, returned):
    reward = FunctionReward(lambda prompts, responses: returned, tiny_tokenizer)
    try:
        raw = reward(some_responses(tiny_tokenizer, PAIRS))
    except RewardError as error:
        found = str(error).splitlines()
    else:
        found = raw.tolist()
        assert found == torch.tensor([float(v) for v in returned]).tolist()
    assert len(found) in (1, 3)


@pytest.mark.parametrize(("reward", "sign"), [(length, 1), (shortness, -1)])
def test_a_reward_for_length_changes_the_length_in_a_few_iterations(run, reward, sign):
    quick = dataclasses.replace(run.config.ppo, iterations=8, batch_size=32, minibatch_size=16, lr=3e-3, kl_coef=0.0)
    quick = dataclasses.replace(quick, missing_eos_penalty=0.0)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, ppo=quick))
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
    assert re.fullmatch(r"<lambda> in test_parts\.py, line \d+", reward_name(one))
