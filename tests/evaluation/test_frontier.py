import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from plaudit.algorithms.ppo import ppo
from plaudit.errors import RunError
from plaudit.evaluation.best_of_n import kl_bound
from plaudit.evaluation.frontier import frontier
from plaudit.evaluation.points import above_best_of_n, best_of_n
from plaudit.models.loading import load_tokenizer
from plaudit.pipeline import steps
from plaudit.training.run import STAGES, Run


@pytest.fixture(scope="module")
def measured(tmp_path_factory, finished_run):
    """The finished run with its frontier: best of 4, and PPO with its own kl_coef and with 1."""
    path = tmp_path_factory.mktemp("frontier") / "run"
    shutil.copytree(finished_run, path)
    run = Run.existing(path)
    for _ in frontier(run, [run.config.ppo.kl_coef, 1.0], draws=4):
        pass
    return path


def read(path):
    return json.loads((path / "frontier.json").read_text())


def test_training_with_the_runs_own_kl_coef_gives_its_policy_again(measured):
    own = Run.existing(measured).config.ppo.kl_coef
    again = measured / "frontier" / f"kl_coef-{own:g}" / "ppo" / "model.safetensors"
    assert again.read_bytes() == (measured / "ppo" / "model.safetensors").read_bytes()
    *path, policy = [p for p in read(measured)["ppo"] if p["kl_coef"] == own]
    assert [p["iteration"] for p in path] == [1, 2, 3, 4]
    assert path[-1] == policy


def test_it_does_so_in_bfloat16(tmp_path, tiny_config):
    config = dataclasses.replace(tiny_config, dtype="bfloat16")
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=STAGES)
    for _ in steps(run):
        pass
    for _ in frontier(run, [config.ppo.kl_coef], draws=1):
        pass
    *_, again, policy = read(run.path)["ppo"]
    assert again == policy


def test_the_runs_policy_has_the_figures_of_the_evaluation(measured):
    evaluated, found = json.loads((measured / "evaluation.json").read_text())["policy"], read(measured)["ppo"][4]
    shared = evaluated.keys() & found.keys()
    assert {"score_mean", "score_ci95", "judge_positive", "kl_mean", "distinct_2", "length_mean"} <= shared
    for name in shared:
        assert found[name] == pytest.approx(evaluated[name], abs=1e-6), name


def test_best_of_n_scores_higher_for_larger_n_with_kl_within_the_bound(measured):
    points = read(measured)["best_of_n"]
    assert [p["n"] for p in points] == [1, 2, 4]
    scores = [p["score_mean"] for p in points]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    for p in points:
        assert p["kl_bound"] == kl_bound(p["n"])
        assert 0 <= p["kl_mean"] <= p["kl_bound"] + 1e-12
        assert p["score_ci95"][0] <= p["score_mean"] <= p["score_ci95"][1]


def test_the_report_shows_it_and_the_trained_models_are_unchanged(measured, finished_run):
    page = (measured / "report.html").read_text()
    assert "PPO beside best-of-n" in page
    assert "mean score (−1 to 1) against KL" in page
    assert all(label in page for label in ("PPO 1 at 4", "best of 4"))
    assert "PPO beside best-of-n" not in (finished_run / "report.html").read_text()
    for name in ("sft/model.safetensors", "reward_model/model.safetensors", "ppo/model.safetensors", "evaluation.json"):
        assert (measured / name).read_bytes() == (finished_run / name).read_bytes(), name


def test_each_training_is_a_run_directory_that_can_be_overwritten(measured, tmp_path):
    shutil.copytree(measured, tmp_path / "run")
    sub = tmp_path / "run" / "frontier" / "kl_coef-1"
    run = Run.existing(sub)
    assert run.config.ppo.kl_coef == 1.0
    assert all(run.complete(stage) for stage in ("sft", "reward_model", "ppo"))
    before = (tmp_path / "run" / "sft" / "model.safetensors").read_bytes()
    Run.open(sub, run.config, resume=False, overwrite=True, stages=("sft", "reward_model", "ppo"))
    assert not run.complete("sft")
    assert (tmp_path / "run" / "sft" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("after", [2, 6])  # amid the draws, and amid a training
def test_a_stopped_and_continued_frontier_has_the_same_figures(tmp_path, finished_run, measured, after):
    shutil.copytree(finished_run, tmp_path / "run")
    run = Run.existing(tmp_path / "run")
    for i, _ in enumerate(frontier(run, [run.config.ppo.kl_coef], draws=4)):
        if i == after:
            break
    again = [r.stage for r in frontier(run, [run.config.ppo.kl_coef, 1.0], draws=4)]
    assert ("best-of-n" in again) == (after == 2)
    assert read(run.path) == read(measured)
    assert list(frontier(run, [], draws=4)) == []
    assert read(run.path) == read(measured)


def test_other_settings_are_refused_and_training_again_removes_the_frontier(tmp_path, measured):
    shutil.copytree(measured, tmp_path / "run")
    run = Run.existing(tmp_path / "run")
    other = dataclasses.replace(run.config, evaluation=dataclasses.replace(run.config.evaluation, prompts=8))
    with pytest.raises(RunError, match="was begun with other settings of the run; use --overwrite"):
        next(frontier(Run(run.path, other), [], draws=4))
    Run.open(run.path, run.config, resume=False, overwrite=True, stages=("ppo",))
    assert not (run.path / "frontier").exists()
    assert not (run.path / "frontier.json").exists()
    with pytest.raises(RunError, match="no finished ppo here"):
        next(frontier(run, [], draws=4))


def test_draws_without_an_end_token_rank_as_ppo_scores_them(measured):
    run = Run.existing(measured)
    drawn = load_file(measured / "frontier" / "best-of-n-4.safetensors")
    limit, eos = run.config.ppo.max_new_tokens, load_tokenizer(run.model("sft")).eos_id
    last = np.take_along_axis(drawn["tokens"], drawn["length"].astype(int)[..., None] - 1, axis=2)[..., 0]
    cut = last != eos
    assert cut.any()
    assert not cut.all()
    assert (drawn["length"][cut] == limit).all()
    scale = run.summary("ppo")["scale"]
    logits = np.log((1 + drawn["score"]) / (1 - drawn["score"]))
    expected = (logits - scale["mean"]) / scale["std"] - np.where(cut, run.config.ppo.missing_eos_penalty, 0.0)
    assert drawn["ranking"] == pytest.approx(expected, abs=1e-4)
    texts = {tuple(row) for row in drawn["tokens"][0].tolist()}
    assert len(texts) > 1  # each draw has its own noise


CURVE = {
    1: {"kl": np.zeros(4), "score": np.array([-0.2, 0.2, 0.0, 0.0])},
    2: {"kl": np.full(4, 0.2), "score": np.array([0.2, 0.6, 0.4, 0.4])},
}


@pytest.mark.parametrize(
    ("kl", "mean", "beyond"),
    [(0.1, 0.3, False), (0.2, 0.1, False), (0.9, 0.1, True)],  # half way, best-of-n scores 0.2
)
def test_policies_are_compared_with_best_of_n_at_equal_kl(kl, mean, beyond):
    """Every prompt's score is best-of-2's plus 0.1: at the KL of n = 2 the paired difference is the same for all."""
    point = {"kl": np.full(4, kl), "score": CURVE[2]["score"] + 0.1}
    found = above_best_of_n(point, CURVE, "score", seed=1)
    assert found["mean"] == pytest.approx(mean)
    assert found["ci95"] == pytest.approx([mean, mean])
    assert found["beyond"] is beyond


def test_a_reward_function_ranks_the_draws(tmp_path, finished_run):
    def length(prompts, responses):
        return [float(len(response)) for response in responses]

    config = Run.existing(finished_run).config
    run = Run.existing(finished_run).branch(tmp_path / "run", config, ("sft",))
    for _ in ppo(run, length):
        pass
    for _ in frontier(run, [], draws=4, reward=length):
        pass
    drawn = load_file(run.path / "frontier" / "best-of-n-4.safetensors")
    tokenizer = load_tokenizer(run.model("sft"))
    texts = [[tokenizer.text(ids[: int(n)]) for ids, n in zip(*row, strict=True)]
             for row in zip(drawn["tokens"].tolist(), drawn["length"], strict=True)]  # fmt: skip
    assert drawn["score"].tolist() == [[len(text) for text in row] for row in texts]
    scores = [point["score_mean"] for point in read(run.path)["best_of_n"]]
    assert scores == sorted(scores)
    assert read(run.path)["meta"]["reward"] == "length"
    with pytest.raises(RunError, match="its ppo was trained for the reward 'length', not for 'reward model'"):
        next(frontier(run, [], draws=4))


def test_the_best_of_n_is_the_one_that_ranks_first():
    """Ranked as PPO scores it, a response that was cut off can lose to one with a lower logit that ended."""
    drawn = {
        "ranking": np.array([[-1.0, 0.2], [-1.0, -1.0]]),
        "score": np.array([[0.9, 0.3], [0.8, 0.4]]),
        "judge": np.array([[1.0, 0.0], [1.0, 0.0]]),
        "length": np.array([[3.0, 2.0], [3.0, 3.0]]),
        "tokens": np.array([[[1, 2, 3], [4, 0, 9]], [[1, 2, 3], [1, 2, 3]]], dtype=np.int32),
    }
    best = best_of_n(drawn)[2]
    assert best["score"] == pytest.approx([0.3, (0.8 + 0.4) / 2])
    assert best["length"] == pytest.approx([2.0, 3.0])
    assert best["distinct_2"] == pytest.approx([1.0])  # (4, 0) and (1, 2) (2, 3)
    assert best["kl"] == pytest.approx([np.log(2) - 1 / 2, 0.0])
