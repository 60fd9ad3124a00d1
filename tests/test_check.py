"""What a later stage needs is checked before anything is trained."""

import dataclasses
import json

import pytest

from plaudit.algorithms.reward_model import judgements
from plaudit.data.splits import Part, Splits
from plaudit.errors import DataError, ModelError
from plaudit.pipeline import check, steps
from plaudit.records import Comparison, LabelledText
from plaudit.training.prompts import rows_that_fit
from plaudit.training.run import STAGES, Run

LONG = " ".join(["film"] * 100)


def labelled(n):
    return [{"text": f"film {i} was " + ("good" if i % 2 else "bad"), "label": i % 2} for i in range(n)]


def pairs(n, prompts=None):
    return [{"prompt": f"ask {i % (prompts or n)}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]


@pytest.fixture
def configured(tmp_path, tiny_config):
    """Settings for a file with these rows."""

    def make(rows, **settings):
        path = tmp_path / "data.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, name=str(path)), **settings)

    return make


QUESTIONS = [{"prompt": f"ask {i}", "response": f"answer {i}"} for i in range(200)]
SHORT = [{"text": f"film{i}", "label": i % 2} for i in range(200)]
TOO_LONG = [{"text": f"{LONG} {i}", "label": i % 2} for i in range(200)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (QUESTIONS, "neither labels nor comparisons"),
        ([row | {"label": 1} for row in labelled(200)], "training labels are 1"),
        (pairs(300, prompts=1), "100% of the records share texts or prompts"),
        (pairs(300, prompts=3), "distinct prompts"),
        (SHORT, "no text is long enough for a prompt of 2 words"),
        (TOO_LONG, "has at most 64 tokens"),
        (labelled(150) + TOO_LONG, "half or more is too much: raise reward_model.max_tokens"),
    ],
)
def test_data_that_a_later_stage_cannot_use_is_refused_first(rows, message, configured, tmp_path):
    with pytest.raises(DataError) as caught:
        check(configured(rows), tmp_path / "run", STAGES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_few_held_out_prompts_are_refused_before_training(configured, tmp_path):
    rows = [{"text": f"the film number {i}", "label": i % 2} for i in range(200)]
    with pytest.raises(DataError, match="the evaluation needs at least 2 held-out prompts, and the data gives 0"):
        check(configured(rows), tmp_path / "run", STAGES)
    assert check(configured(rows), tmp_path / "run", ("sft", "reward_model")) == []


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ((["tie"] * 9, "ab"), "all 9 training comparisons are ties"),
        ((["a", "b", "tie"], ["tie"] * 9), "fewer than 2 held-out judgements"),
        (("ab", "a"), "fewer than 2 held-out judgements"),
        (([0, 0, 0], [0, 1]), "all 3 training labels are 0"),
    ],
)
def test_judgements_that_a_reward_model_cannot_use_are_refused(choices, message, tiny_tokenizer):
    def part(values):
        if isinstance(values[0], int):
            return Part(tuple(LabelledText(f"text {i}", value) for i, value in enumerate(values)))
        return Part(comparisons=tuple(Comparison("p", f"one {i}", "two", value) for i, value in enumerate(values)))

    train, held_out = map(part, choices)
    with pytest.raises(DataError, match=message):
        judgements(Splits("x", train, Part(), held_out, {}), tiny_tokenizer, 64)


def test_many_records_left_out_are_warned_of_by_stage(configured, tmp_path):
    rows = labelled(360) + TOO_LONG[:40] + [{"text": "", "label": 0}] * 40
    empty, reward_model, sft = check(configured(rows), tmp_path / "run", STAGES)
    assert empty.endswith("data.jsonl: 40 of 440 records are left out (40 empty)")
    assert "training records of reward_model: " in reward_model
    assert "training records of sft: " in sft
    assert "too long)" in sft


def test_prompts_that_leave_no_room_are_left_out_and_counted():
    prompts = [[1] * 10] * 95 + [[1] * 11] * 4 + [[1] * 10]
    assert rows_that_fit(prompts, 54, 64, "prompts") == ([*range(95), 99], "")
    _, warning = rows_that_fit(prompts + [[1] * 60] * 2, 54, 64, "prompts")
    assert warning == "prompts: 6 of 102 records are left out (6 prompts too long for a window of 64 tokens)"
    with pytest.raises(DataError, match="half or more is too much: shorten the prompts"):
        rows_that_fit([[1] * 10, [1] * 11], 54, 64, "prompts")
    with pytest.raises(ModelError, match="do not fit into the model's window"):
        rows_that_fit([[1] * 11, [1] * 12], 54, 64, "prompts")


@pytest.mark.filterwarnings("ignore:.*records are left out:UserWarning")  # the rows that are too long
@pytest.mark.parametrize("stage", ["ppo", "reinforce"])
def test_one_long_prompt_does_not_stop_a_run(stage, configured, tmp_path):
    """It is in the part of the prompts, or in that of the evaluation; everything else is used."""
    rows = pairs(300) + [pair | {"prompt": f"{LONG} {i}"} for i, pair in enumerate(pairs(20))]
    config = configured(rows)
    stages = ("sft", "reward_model", stage, "evaluation")
    if stage == "reinforce":
        settings = dataclasses.replace(config.reinforce, iterations=1, batch_size=8, minibatch_size=8, max_new_tokens=8)
        config = dataclasses.replace(config, reinforce=settings)
    check(config, tmp_path / "run", stages)
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=stages)
    for _ in steps(run, stages):
        pass
    long = sum(d.prompt.startswith(LONG) for d in run.data.prompts.demonstrations)
    assert run.summary(stage)["dropped"] == {"too long": long}
    assert long > 0
    responses = (run.path / "responses.jsonl").read_text()
    assert LONG not in responses
