"""Several reward models: trained one after the other, resumed, and used as one reward by every algorithm."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import some_responses
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from plaudit.algorithms.reward_model import reward_model
from plaudit.config import build
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.frontier import frontier
from plaudit.evaluation.memory import memory_needed
from plaudit.models.classifier import Classifier
from plaudit.models.ensemble import member_folders
from plaudit.pipeline import steps
from plaudit.rewards import EnsembleReward, ModelReward
from plaudit.training.models import Models
from plaudit.training.rewards import as_reward
from plaudit.training.run import Run

MEMBERS = 3


def with_settings(config, **sections):
    replaced = {name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    return dataclasses.replace(config, **replaced)


@pytest.fixture(scope="module")
def config(tiny_config):
    return with_settings(
        tiny_config,
        reward_model={"members": MEMBERS, "epochs": 1, "train_layers": 1},
        ppo={"iterations": 2, "lower_bound": 0.5, "train_layers": 1},
        reinforce={"iterations": 1, "batch_size": 8, "minibatch_size": 8, "max_new_tokens": 8, "train_layers": 1},
    )


def start(path, finished_run, config):
    """A run with the finished SFT model."""
    shutil.copytree(finished_run / "sft", path / "sft")
    shutil.copy(finished_run / "config.toml", path)
    return Run(path, config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, finished_run, config):
    """A run with an ensemble and a policy, and its reports."""
    run = start(tmp_path_factory.mktemp("ensemble") / "run", finished_run, config)
    return run, list(steps(run, ("reward_model", "ppo", "evaluation")))


def test_each_member_is_a_model_of_its_own(trained):
    run, reports = trained
    folder = run.folder("reward_model")
    folders = [folder, folder / "members" / "2", folder / "members" / "3"]
    heads = [load_file(f / "model.safetensors")["score.weight"] for f in folders]
    assert not any(torch.equal(heads[i], heads[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    losses = [[json.loads(x)["loss"] for x in (f / "metrics.jsonl").read_text().splitlines()] for f in folders]
    assert len({tuple(each) for each in losses}) == 3
    for each in folders:
        assert AutoModelForSequenceClassification.from_pretrained(each).config.num_labels == 1
    done = [(r.step, r.total) for r in reports if r.stage == "reward_model"]
    assert done == [(i + 1, len(done)) for i in range(len(done))]
    assert len(done) == sum(map(len, losses))
    hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    assert {"members/2/model.safetensors", "members/3/metrics.jsonl"} <= hashes.keys()


def test_the_first_member_is_the_reward_model_that_is_trained_alone(trained, tmp_path, finished_run, config):
    run, _ = trained
    alone = with_settings(config, reward_model={"members": 1}, ppo={"lower_bound": 0.0})
    one = start(tmp_path / "run", finished_run, alone)
    list(reward_model(one))
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (one.folder("reward_model") / name).read_bytes() == (run.folder("reward_model") / name).read_bytes()


@pytest.mark.parametrize("stopped", ["first", "second", "between"])
def test_a_resumed_ensemble_equals_an_uninterrupted_one(trained, tmp_path, finished_run, config, stopped):
    run, reports = trained
    each = sum(r.stage == "reward_model" for r in reports) // MEMBERS
    after = {"first": each - 3, "between": each, "second": each + 7}[stopped]
    other = start(tmp_path / "run", finished_run, config)
    begun = reward_model(other)
    for _ in range(after):
        next(begun)
    begun.close()
    assert not other.complete("reward_model")
    resumed = [report.step for report in reward_model(other)]
    assert resumed[-1] == MEMBERS * each
    assert len(resumed) < MEMBERS * each - after + 6  # from the last checkpoint
    files = {f.relative_to(run.folder("reward_model")) for f in run.folder("reward_model").rglob("*") if f.is_file()}
    files = {f for f in files if "checkpoints" not in f.parts and f.name != "timing.jsonl"}
    for name in files:
        ours, theirs = ((r.folder("reward_model") / name).read_bytes() for r in (run, other))
        assert ours == theirs, name


def test_a_damaged_member_is_noticed(trained, tmp_path):
    shutil.copytree(trained[0].path, tmp_path / "run")
    path = tmp_path / "run" / "reward_model" / "members" / "2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"2/model\.safetensors: missing or changed since reward_model finished"):
        Run(tmp_path / "run", trained[0].config).model("reward_model")


def test_the_summary_has_each_member_and_their_spread(trained):
    summary = trained[0].summary("reward_model")
    assert summary["members"]["count"] == MEMBERS
    assert len(summary["members"]["accuracy"]) == MEMBERS
    assert summary["members"]["spread_mean"] > 0


def test_the_score_is_the_mean_less_the_spread(trained):
    run, _ = trained
    models = Models.load(run, "ppo")
    responses = some_responses()
    folder = run.folder("reward_model")
    logits = []
    for each in (folder, folder / "members" / "2", folder / "members" / "3"):
        alone = AutoModelForSequenceClassification.from_pretrained(each).eval()
        ids = [
            torch.tensor([ids[mask].tolist()])
            for ids, mask in zip(responses.ids, responses.attention_mask, strict=True)
        ]
        with torch.no_grad():
            logits.append([alone(one).logits.item() for one in ids])
    mean, spread = np.mean(logits, axis=0), np.std(logits, axis=0)
    assert spread.min() > 1e-3
    found = as_reward(run, None, models, 0.5).measured(responses)
    assert found["model spread"].tolist() == pytest.approx(spread, abs=1e-4)
    assert found["model"].tolist() == pytest.approx(mean - 0.5 * spread, abs=1e-4)
    assert as_reward(run, None, models)(responses).tolist() == pytest.approx(mean, abs=1e-4)


def test_members_share_the_frozen_layers_in_memory(trained):
    models = Models.load(trained[0], "ppo")
    first, *others = (
        {n: p.data_ptr() for n, p in member.classifier.named_parameters()} for member in models.reward_models
    )
    assert len(others) == MEMBERS - 1
    for other in others:
        own = {name for name, place in other.items() if place != first[name]}
        assert own
        assert all(name.startswith(("transformer.h.1.", "transformer.ln_f.", "score.")) for name in own)


def test_the_spread_of_every_response_is_on_record(trained):
    run, _ = trained
    lines = [json.loads(line) for line in (run.folder("ppo") / "rollouts.jsonl").read_text().splitlines()]
    assert all(line["score.model spread"] >= 0 for line in lines)
    metrics = [json.loads(line) for line in (run.folder("ppo") / "metrics.jsonl").read_text().splitlines()]
    of_first = [line["score.model spread"] for line in lines if line["iteration"] == 1]
    assert metrics[0]["score.model spread"] == pytest.approx(np.mean(of_first), rel=1e-4)
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    assert evaluation["policy"]["parts"]["model spread"] > 0
    assert evaluation["meta"]["lower_bound"] == 0.5
    assert "model spread" in (run.path / "report.html").read_text()


def test_another_algorithm_uses_the_ensemble_too(trained, tmp_path):
    run, _ = trained
    shutil.copytree(run.path, tmp_path / "run")
    config = with_settings(run.config, reinforce={"lower_bound": 1.0})
    (report,) = [r for r in steps(Run(tmp_path / "run", config), ("reinforce",)) if r.stage == "reinforce"]
    assert report.metrics["score.model spread"] > 0


def test_a_lower_bound_needs_members():
    with pytest.raises(ConfigError, match=r"ppo.lower_bound = 1.0: one reward model has no spread"):
        build({"ppo.lower_bound": 1.0})
    assert build({"ppo.lower_bound": 1.0, "reward_model.members": 2}).ppo.lower_bound == 1.0


def test_members_that_agree_have_no_spread():
    def agreed(ids, mask):
        return torch.tensor([0.5, -1.0])

    found = EnsembleReward((ModelReward(agreed), ModelReward(agreed)), 3.0).with_spread(some_responses())
    assert [x.tolist() for x in found] == [[0.5, -1.0], [0.0, 0.0]]


def test_more_members_need_more_memory():
    with torch.device("meta"):
        lm = GPT2LMHeadModel(GPT2Config())
    four, eight = (memory_needed(Run(Path("nowhere"), build({"reward_model.members": n})), lm, 8) for n in (4, 8))
    weights = 4 * sum(p.numel() for p in lm.parameters())
    assert eight - four == pytest.approx(4 * weights, rel=0.01)


def test_best_of_n_ranks_by_the_score_of_the_ensemble(trained, tmp_path):
    run, _ = trained
    shutil.copytree(run.path, tmp_path / "run")
    other = Run(tmp_path / "run", run.config)
    list(frontier(other, [run.config.ppo.kl_coef], draws=2))
    found = json.loads((other.path / "frontier.json").read_text())
    one, two = (point["score_mean"] for point in found["best_of_n"])
    assert one < two
    (again,) = other.path.glob("frontier/kl_coef-*")
    assert (again / "reward_model" / "members" / "2" / "model.safetensors").exists()


def test_the_folder_of_an_ensemble_as_a_reward_is_the_mean_of_its_members(trained, tmp_path):
    run, _ = trained
    folder = tmp_path / "ensemble"
    shutil.copytree(run.folder("reward_model"), folder)
    prompts, responses = ["the film is"] * 3, [" a delight", " a bore", " long"]
    members = [Classifier(str(member)) for member in member_folders(folder)]
    expected = np.mean([member(prompts, responses) for member in members], axis=0)
    (part,) = as_reward(run, str(folder), Models.load(run, "ppo", reward_model=False)).parts
    assert len(members) == MEMBERS
    assert part.measure.function(prompts, responses) == pytest.approx(expected.tolist())
    assert members[0](prompts, responses) != pytest.approx(expected.tolist())
