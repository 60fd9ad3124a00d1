"""Methods side by side: equal budgets, paired differences, and a comparison that continues where it stopped."""

import csv
import itertools
import json
import re
import shutil

import numpy as np
import pytest

from plaudit.config import POLICIES, build
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.comparison import Trained, at_kl, compared, passed
from plaudit.evaluation.methods import CONTROL, METHODS, config_of, methods, parse
from plaudit.training.checkpoint import due
from plaudit.training.run import Run

NAMES = ("ppo", "dpo", "best-of-n")


def copy_of(finished_run, path, **settings):
    """The finished run's SFT and reward model, as a run directory without a policy."""
    shutil.copytree(finished_run, path, ignore=shutil.ignore_patterns("ppo", "evaluation.json", "report.html"))
    return Run.existing(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory, finished_run):
    """A run without a policy of its own, with three methods compared on two seeds."""
    run = copy_of(finished_run, tmp_path_factory.mktemp("methods") / "run")
    list(methods(run, NAMES, seeds=2, budget=64, draws=16))
    return run.path


def read(path):
    content = json.loads((path / "methods.json").read_text())
    for row in content["methods"]:
        del row["seconds"]
        for one in row["of_seeds"]:
            del one["seconds"]
    return content


def test_every_method_samples_the_budget(made):
    for name, stage in (("ppo", "ppo"), ("dpo", "dpo"), ("best_of_n", "best_of_n")):
        for seed in (1, 2):
            folder = made / "methods" / f"{name}-{seed}" / stage
            file = folder / ("rollouts.jsonl" if stage == "ppo" else "drawn.jsonl")
            assert len(file.read_text().splitlines()) == 64


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [128, 6000, 6001])
def test_a_budget_is_whole_batches_or_groups(method, budget):
    config = config_of(build({"ppo.temperature": 0.5}), method, 3, budget)
    stage = "best_of_n" if method == CONTROL else method
    settings = getattr(config, stage)
    sampled = settings.responses if hasattr(settings, "responses") else settings.iterations * settings.batch_size
    assert budget - 128 < sampled <= budget
    assert (config.seed, settings.temperature) == (3, 0.5)
    assert getattr(settings, "source", "drawn") == "drawn"
    assert getattr(settings, "keep", "best") == ("random" if method == CONTROL else "best")


def test_the_figures_are_means_over_seeds_and_paired_differences(made):
    content = read(made)
    rows = {row["method"]: row for row in content["methods"]}
    assert list(rows) == ["ppo", "dpo", "best_of_n"]
    for row in rows.values():
        each = [one["score_mean"] for one in row["of_seeds"]]
        assert row["score_mean"] == pytest.approx(np.mean(each))
        assert row["score_difference"]["mean"] == pytest.approx(row["score_mean"] - rows["ppo"]["score_mean"])
        low, high = row["score_difference"]["ci95"]
        assert low <= row["score_difference"]["mean"] <= high
    assert {(p["method"], p["seed"]) for p in content["points"]} == set(itertools.product(rows, (1, 2)))
    last = [p for p in content["points"] if p["method"] == "ppo" and p["seed"] == 1][-1]
    assert last["score_mean"] == rows["ppo"]["of_seeds"][0]["score_mean"]
    lines = list(csv.DictReader((made / "methods.csv").read_text().splitlines()))
    assert [line["seed"] for line in lines] == ["1", "2", "mean"] * 3
    assert float(lines[2]["score_mean"]) == rows["ppo"]["score_mean"]
    for number, name in ((5, "dpo"), (8, "best_of_n")):
        for of in ("score", "judge", "kl", "length"):
            difference = rows[name][f"{of}_difference"]
            ends = [lines[number][f"{of}_difference_{end}"] for end in ("low", "high")]
            assert list(map(float, ends)) == difference["ci95"]
    at_equal_kl = list(csv.DictReader((made / "methods-at-kl.csv").read_text().splitlines()))
    assert [(float(line["kl"]), line["method"]) for line in at_equal_kl] == [
        (row["kl"], row["method"]) for row in content["at_kl"]
    ]


def test_the_first_seed_of_a_method_is_the_run_itself(made, finished_run):
    """PPO in the comparison, with the run's own seed and as many responses, is PPO of the run, to the last bit."""
    own = finished_run / "ppo" / "model.safetensors"
    assert (made / "methods" / "ppo-1" / "ppo" / "model.safetensors").read_bytes() == own.read_bytes()


def test_stopped_and_repeated_it_gives_the_same_figures(made, finished_run, tmp_path):
    run = copy_of(finished_run, tmp_path / "run")
    reports = methods(run, NAMES, seeds=2, budget=64, draws=16)
    list(itertools.islice(reports, 6))
    reports.close()
    list(methods(Run.existing(run.path), NAMES, seeds=2, budget=64, draws=16))
    assert read(run.path) == read(made)


def test_the_report_and_the_command_line_show_it(made, capsys):
    from plaudit.cli import main

    page = (made / "report.html").read_text()
    assert "Methods side by side" in page
    assert "64 sampled" in " ".join(page.split())
    assert page.count("<svg") >= 2
    assert re.search(r'<p class="verdict">\s*Mean score after training: ', page)  # the run has no policy of its own
    assert "Not in this run directory" not in page
    words = ["methods", str(made), "--methods", "ppo,dpo,best-of-n", "--seeds", "2", "--budget", "64", "--draws", "16"]
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Methods side by side, on 64 responses each" in out
    assert "Mean score after training: " in out


def test_another_budget_is_another_comparison(made, finished_run, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    with pytest.raises(RunError, match="was begun with another budget or other settings"):
        list(methods(Run.existing(tmp_path / "run"), NAMES, seeds=1, budget=48, draws=16))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["pop"], r"no method 'pop' \(did you mean 'ppo'\?\); the methods are ppo, "),
        ([], "name at least one method: ppo, "),
        (["ppo", "sft"], "no method 'sft'"),
    ],
)
def test_unknown_methods_are_refused_before_anything_is_trained(names, words):
    with pytest.raises(ConfigError, match=words):
        parse(names)
    assert parse(["best-of-n", "ppo", "best_of_n"]) == ("best_of_n", "ppo")
    assert set(POLICIES) < set(METHODS)


def test_a_budget_below_a_batch_is_refused():
    with pytest.raises(ConfigError, match=r"a budget of 100 responses is less than ppo\.batch_size = 128"):
        config_of(build(), "ppo", 1, 100)


def policy(kl, score, n=400, seed=0):
    """Figures of a policy with this KL and this mean score."""
    noise = np.random.default_rng(seed).normal(0, 0.05, n)
    return {
        "kl": np.full(n, kl), "score": score + noise, "length": np.full(n, 9.0),
        "distinct_2": np.array([0.7]), "distinct_2_without": np.full(n, 0.7),
    }  # fmt: skip


def test_at_equal_kl_a_method_is_read_between_its_policies():
    curve = {n: policy(kl, kl / 4) for n, kl in ((1, 0.0), (2, 1.0), (4, 4.0))}
    start = {0: policy(0, 0.0)}
    near = [Trained("near", s, start | {1: policy(1, 0.25), 5: policy(4, 1.0, seed=s)}, 1.0) for s in (1, 2)]
    far = [Trained("far", s, start | {1: policy(1, 0.0), 5: policy(4, 0.5, seed=s)}, 1.0) for s in (1, 2)]
    short = [Trained("short", 1, start | {1: policy(1, 0.2), 5: policy(1.5, 0.5)}, 1.0)]
    fast = [Trained("fast", s, start | {1: policy(1 + s, 0.5), 5: policy(4, 1.0)}, 1.0) for s in (1, 2)]
    groups = {"near": near, "far": far, "short": short, "fast": fast}
    rows = {row["method"]: row for row in at_kl(groups, curve, 2.0, 1)}
    assert rows.keys() == {"near", "far"}  # nobody knows the score of `fast` with seed 2 before 3 nats
    assert rows["near"]["score"] == pytest.approx(0.5, abs=0.02)
    low, high = rows["near"]["score_above_best_of_n"]["ci95"]
    assert low <= 0 <= high
    low, high = rows["far"]["score_above_best_of_n"]["ci95"]
    assert low < high < -0.1
    assert rows["near"]["score_difference"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    low, high = rows["far"]["score_difference"]["ci95"]
    assert low < rows["far"]["score"] - rows["near"]["score"] < high < 0
    beyond = {row["method"]: row for row in at_kl(groups, {n: curve[n] for n in (1, 2)}, 2.0, 1)}
    assert beyond["far"]["score_difference"] == rows["far"]["score_difference"]
    assert "score_above_best_of_n" not in beyond["far"]  # best-of-2 has 1 nat


def test_a_kl_is_passed_where_training_first_reaches_it():
    points = {0: policy(0, 0.0)} | {step: policy(kl, 0.1 * step) for step, kl in enumerate((1.0, 3.0, 1.5, 4.0), 1)}
    training = Trained("a", 1, points, 1.0)
    for kl, steps in ((0.5, None), (1.0, (1, 2)), (2.0, (1, 2)), (3.5, (3, 4)), (4.5, None)):
        assert passed(training, kl) == (steps and tuple(points[step] for step in steps))
    assert passed(Trained("a", 1, {0: points[0], 1: points[2], 2: points[3], 3: points[4]}, 1.0), 2.0) is None


def test_policies_are_measured_often_at_first(made):
    for name, steps in (("ppo", [1, 2, 3, 4]), ("best_of_n", [1, 2, 3, 4])):
        points = sorted(int(file.stem) for file in (made / "methods" / f"{name}-1" / "points").glob("*.safetensors"))
        assert points[:4] == steps
    assert due(7, 46, 46, {1, 7})
    assert due(46, 46, 46, {1, 7})
    assert not due(8, 46, 46, {1, 7})


def test_an_advantage_that_only_one_seed_has_is_within_noise():
    first = [Trained("a", s, {1: policy(1, 0.5)}, 1.0) for s in range(3)]
    lucky = [Trained("b", s, {1: policy(1, 0.5 + 0.3 * (s == 0))}, 1.0) for s in range(3)]
    always = [Trained("c", s, {1: policy(1, 0.6)}, 1.0) for s in range(3)]
    curve = {n: policy(kl, 0.5) for n, kl in ((1, 0.0), (2, 1.0))}
    rows = {row["method"]: row["score_difference"] for row in compared([*first, *lucky, *always], curve, 1)["methods"]}
    assert rows["b"]["mean"] == pytest.approx(0.1)
    assert rows["b"]["ci95"][0] <= 0
    assert rows["c"]["ci95"][0] > 0.05
