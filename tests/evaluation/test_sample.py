import numpy as np
import pytest

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
