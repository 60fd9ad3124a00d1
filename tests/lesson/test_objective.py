import numpy as np
import pytest
import torch

from plaudit.batches import Below, Experience, Rollout
from plaudit.lesson.objective import clipped, clipped_objective, optimum_by_kl_coef, update_scatter


@pytest.mark.parametrize("eps", [0.1, 0.2])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_the_drawn_objective_is_min_of_ratio_and_clipped_ratio(advantage, eps):
    ratios = np.linspace(0.51, 1.49, 50)
    values, slopes = clipped(ratios, advantage, eps)
    assert values == pytest.approx(np.minimum(advantage * ratios, advantage * np.clip(ratios, 1 - eps, 1 + eps)))
    flat = ratios > 1 + eps if advantage > 0 else ratios < 1 - eps
    assert slopes == pytest.approx(np.where(flat, 0, advantage * ratios))


def shaded(axes):
    """First and last ratio of the shaded part."""
    (patch,) = axes.collections
    x = patch.get_paths()[0].vertices[:, 0]
    return x.min(), x.max()


def test_the_part_without_a_gradient_is_shaded():
    good, bad = clipped_objective(0.25).axes
    assert shaded(good) == pytest.approx((1.25, 1.6), abs=0.01)
    assert shaded(bad) == pytest.approx((0.4, 0.75), abs=0.01)
    assert "more often" in good.get_title(loc="left")
    assert "less often" in bad.get_title(loc="left")


def test_the_optimum_is_drawn_from_a_short_leash_to_a_long_one():
    figure = optimum_by_kl_coef(["dull", "fine"], {1.0: [0.4, 0.6], 0.1: [0.0, 1.0], 10.0: [0.5, 0.5]})
    (axes,) = figure.axes
    dull, fine = axes.lines
    assert dull.get_label() == "dull"
    assert list(dull.get_xdata()) == [10.0, 1.0, 0.1]
    assert list(fine.get_ydata()) == [0.5, 0.6, 1.0]
    assert axes.get_xlim() == (10.0, 0.1)


def test_only_response_tokens_are_drawn_at_their_ratio():
    mask = torch.arange(50)[None] < torch.tensor([[50], [30]])
    advantages = torch.linspace(-1, 1, 100).view(2, 50)
    old = torch.full((2, 50), -1.0)
    new = (old + 0.1 * advantages).masked_fill(~mask, 7.0)
    zero = torch.zeros(2, 50)
    rollout = Rollout(
        ids=torch.zeros(2, 60, dtype=torch.long),
        attention_mask=torch.ones(2, 60, dtype=torch.bool),
        response_mask=mask,
        logprobs=old,
        ref_logprobs=old,
        values=zero,
        scores=torch.zeros(2),
        below=Below.nothing(torch.zeros(2, 60, dtype=torch.long)),
    )
    (axes,) = update_scatter(Experience(rollout, zero, advantages, zero), new, 0.2).axes
    x, y = np.asarray(axes.collections[0].get_offsets()).T
    assert len(x) == 80
    assert y == pytest.approx(np.exp(0.1 * x))
    means = axes.lines[-1]
    assert len(means.get_xdata()) == 10
    assert (np.diff(means.get_ydata()) > 0).all()
