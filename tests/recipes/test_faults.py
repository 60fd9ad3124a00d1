"""Some faults put into real runs, of the tests' tiny model; recipes/faults.py measures all of them on movie-gpt2."""

import json

import pytest

from plaudit.config import build, preset
from plaudit.evaluation.diagnosis import FAULTS, diagnose
from plaudit.training.run import Run
from recipes import faults

CASES = {case.name: case for case in faults.CASES}
SMALL = {"iterations": 10, "batch_size": 32, "minibatch_size": 8, "max_new_tokens": 16}


def named(base, folder, name, seed, **settings):
    faults.make_run(base, folder / "run", CASES[name], seed, SMALL | settings)
    return [finding.fault for finding in diagnose(folder / "run")]


@pytest.fixture(scope="module")
def base(finished_run):
    return Run.existing(finished_run)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("learning rate x 30", 0),
        ("broken critic", 0),
        ("KL penalty off", 0),
        ("KL penalty off", 1),
        ("nothing learned", 0),
        ("nothing learned", 1),
    ],
)
def test_a_fault_in_a_tiny_run_is_named(base, tmp_path, name, seed):
    found = named(base, tmp_path, name, seed)
    assert CASES[name].fault in found
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_tiny_run_without_a_fault(base, tmp_path):
    assert named(base, tmp_path, "healthy", 0) == []


def test_responses_that_are_cut_off(base, tmp_path):
    cut = faults.Case("cut", "cut_off", (faults.Variant({"max_new_tokens": 2}),))
    faults.make_run(base, tmp_path / "run", cut, 0, SMALL)
    assert "cut_off" in [finding.fault for finding in diagnose(tmp_path / "run")]


def test_a_leak_between_two_files_is_named(tmp_path):
    base = Run(tmp_path, build(preset("movie-gpt2")))
    faults.make_run(base, tmp_path / "run", CASES["data leak"], 0)
    assert [finding.fault for finding in diagnose(tmp_path / "run")] == ["leak"]


def test_every_fault_has_a_run_and_every_function_that_is_replaced_exists():
    assert {case.fault for case in faults.CASES} == {"", *FAULTS}
    for case in faults.CASES:
        for variant in case.variants:
            assert all(hasattr(faults.ppo, name) for name in variant.patches)


def test_the_table_counts_what_is_named_and_what_is_named_besides(tmp_path, monkeypatch):
    found = {("learning-rate-x-30", "0"): ["learning_rate"], ("learning-rate-x-30", "1"): ["entropy", "leak"]}
    finding = type("Finding", (), {})

    def given(folder):
        some = [finding() for _ in found.get((folder.name, folder.parent.name), ())]
        for one, fault in zip(some, found.get((folder.name, folder.parent.name), ()), strict=True):
            one.fault = fault
        return some

    monkeypatch.setattr(faults, "diagnose", given)
    lines = [{"case": name, "seed": seed} for name in ("healthy", "learning rate x 30") for seed in (0, 1, 7)]
    (tmp_path / "faults.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = list(faults.table(tmp_path, [0, 1]))
    assert "| healthy | 2 |  | 0 |  |" in rows
    assert "| learning rate x 30 | 2 | 1 | 1 | entropy collapse 1, data leak 1 |" in rows


def test_seeds_are_read_as_ranges():
    assert faults.numbers("0-3,7") == [0, 1, 2, 3, 7]
