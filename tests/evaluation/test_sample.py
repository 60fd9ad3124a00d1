import dataclasses
import shutil

import numpy as np
import pytest

from plaudit.config import to_toml
from plaudit.errors import ModelError, RunError
from plaudit.evaluation.evaluate import sample
from plaudit.training.run import Run


def test_the_same_seed_gives_the_same_samples(finished_run):
    samples = sample(finished_run, "the cast", n=3, seed=5)
    assert samples == sample(finished_run, "the cast", n=3, seed=5)
    assert samples != sample(finished_run, "the cast", n=3, seed=6)
    assert len(samples) == 3
    assert all(-1 <= s["sft_score"] <= 1 and -1 <= s["policy_score"] <= 1 for s in samples)


def test_more_samples_begin_with_the_same_ones(finished_run):
    few, many = (sample(finished_run, "the cast", n=n, seed=5) for n in (2, 5))
    assert [(s["sft"], s["policy"]) for s in many[:2]] == [(s["sft"], s["policy"]) for s in few]
    scores = [[(s["sft_score"], s["policy_score"]) for s in some] for some in (many[:2], few)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_the_length_can_be_limited(finished_run):
    samples = sample(finished_run, "the cast", n=4, seed=5, max_new_tokens=1)
    longer = sample(finished_run, "the cast", n=4, seed=5)
    for one, whole in zip(samples, longer, strict=True):
        assert whole["sft"].startswith(one["sft"])
        assert whole["policy"].startswith(one["policy"])
    assert samples != longer


def test_a_response_is_read_whole_where_training_drew_shorter_limits(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    config = Run.existing(finished_run).config
    drawn = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, min_new_tokens=1))
    (tmp_path / "run" / "config.toml").write_text(to_toml(drawn, {}), encoding="utf-8")
    assert Run.existing(tmp_path / "run").config.ppo.min_new_tokens == 1
    assert sample(tmp_path / "run", "the cast", n=4, seed=5) == sample(finished_run, "the cast", n=4, seed=5)


def test_the_longest_response_is_that_of_the_policy_s_own_algorithm(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "ppo").rename(tmp_path / "run" / "reinforce")
    config = Run.existing(finished_run).config
    short = dataclasses.replace(config, reinforce=dataclasses.replace(config.reinforce, max_new_tokens=1))
    (tmp_path / "run" / "config.toml").write_text(to_toml(short, {}), encoding="utf-8")
    found, limited = sample(tmp_path / "run", "the cast", n=4), sample(finished_run, "the cast", n=4, max_new_tokens=1)
    assert [row["policy"] for row in found] == [row["policy"] for row in limited]


def test_samples_can_be_scored_by_a_function(finished_run):
    def length(prompts, responses):
        assert prompts == ["the cast"] * 2
        return [float(len(response)) for response in responses]

    for s in sample(finished_run, "the cast", n=2, seed=5, reward=length):
        assert (s["sft_score"], s["policy_score"]) == (len(s["sft"]), len(s["policy"]))


def test_a_run_without_a_policy_or_a_prompt_without_room_is_refused(cpu_run, finished_run, tmp_path):
    with pytest.raises(RunError, match="no run here"):
        sample(tmp_path / "nowhere", "the cast", n=1, seed=1)
    with pytest.raises(RunError, match="no finished policy here"):
        sample(cpu_run.path, "the cast", n=1, seed=1)
    limit = 64 - Run.existing(finished_run).config.ppo.max_new_tokens
    with pytest.raises(ModelError, match=f"a prompt of {limit + 2} tokens and a response of 16 do not fit"):
        sample(finished_run, "z" * (limit + 1), n=1, seed=1)  # one token a letter, and the beginning of the text
