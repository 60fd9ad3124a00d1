import numpy as np
import pytest
import torch

from plaudit import rng
from plaudit.models.sampling import sample_tokens


def test_sampling_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)
    u = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.9999999999], dtype=torch.float64)
    assert sample_tokens(logits, u).tolist() == [0, 0, 1, 1, 2]


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, 3)
    assert sample_tokens(logits, torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)).tolist() == [1, 1]


@pytest.mark.parametrize("vocabulary", [255, 256, 257, 5000])
def test_the_search_in_two_steps_inverts_the_whole_cumulative_distribution(vocabulary):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, vocabulary, generator=generator)
    u = torch.rand(400, dtype=torch.float64, generator=generator)
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    expected = (cumulative <= u[:, None]).sum(1)
    assert (sample_tokens(logits, u) != expected).sum() <= 1  # a number on the border between two tokens
    assert sample_tokens(logits, torch.zeros(400, dtype=torch.float64)).tolist() == [0] * 400
    ends = sample_tokens(logits, torch.full((400,), 1 - 1e-12, dtype=torch.float64))
    assert (ends >= vocabulary - 3).all()


def test_frequencies_follow_the_softmax():
    p = np.array([0.5, 0.25, 0.15, 0.1])
    n = 20_000
    u = rng.uniforms(range(1), n, 0, "test", 0, "frequency")[0]
    drawn = sample_tokens(torch.tensor(p).log().float().expand(n, 4), u)
    counts = np.bincount(drawn.numpy(), minlength=4)
    assert (abs(counts - n * p) < 4.5 * np.sqrt(n * p * (1 - p))).all()
