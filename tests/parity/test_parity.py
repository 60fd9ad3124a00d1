"""Our numbers beside TRL's, from the same rollouts: README.md says how they were made, and what differs and why.

The fixture keeps TRL's names, which `make_fixtures.py` explains. What is outside a response is fed as TRL leaves it
(log probabilities of 1.0, values of later columns): it must not matter.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.kl import kl_k1
from plaudit.maths.logprobs import token_logprobs
from plaudit.maths.losses import policy_loss, value_loss
from plaudit.maths.masked import whiten
from plaudit.training.rollouts import ScoreScale

HERE = Path(__file__).parent
FIXTURE = json.loads((HERE / "trl-1.12.json").read_text(encoding="utf-8"))
OWN_PAD = ["full", "early", "unusual"]  # the cases in which pad is not eos


def tensors(numbers: dict) -> SimpleNamespace:
    return SimpleNamespace(**{name: torch.tensor(value) for name, value in numbers.items()})


def load(name: str) -> SimpleNamespace:
    """A case as tensors, with `lengths`, `ended` and the three masks, all from the place of the first eos alone."""
    numbers = dict(FIXTURE["cases"][name])
    settings, steps = SimpleNamespace(**numbers.pop("settings")), [tensors(step) for step in numbers.pop("steps")]
    case = tensors(numbers)
    case.settings, case.steps = settings, steps
    rows = case.responses.tolist()
    case.ended = torch.tensor([settings.eos_id in row for row in rows])
    case.lengths = torch.tensor([(*row, settings.eos_id).index(settings.eos_id) + 1 for row in rows])
    case.lengths = case.lengths.clamp(max=len(rows[0]))
    columns = torch.arange(len(rows[0]))
    case.mask = columns < case.lengths[:, None]
    case.one_past = columns <= case.lengths[:, None]  # TRL's ~padding_mask_p1
    case.without_eos = columns < (case.lengths - case.ended.long())[:, None]  # TRL's ~padding_mask where pad = eos
    case.full = case.lengths == len(rows[0])  # rows that fill every column: nothing can lie one past them
    return case


def ours(case: SimpleNamespace, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, raw advantages and returns of plaudit."""
    s = case.settings
    rewards = token_rewards(case.scores, kl_k1(case.logprobs, case.ref_logprobs), mask, s.kl_coef)
    return rewards, *gae(rewards, case.values, mask, s.gamma, s.lam)


def mean(loss: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The mean of a loss (sum, count)."""
    total, count = loss
    return total / count


def same(actual: torch.Tensor, expected: torch.Tensor):
    """Equal within float32 rounding."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def of_steps(*names: str) -> list:
    return [
        pytest.param(case, step, id=f"{name}-{i}")
        for name in names
        for case in [load(name)]
        for i, step in enumerate(case.steps)
    ]


def test_the_fixture_was_made_with_the_pinned_packages():
    pins = (HERE / "requirements.txt").read_text(encoding="utf-8").split()
    made_by = FIXTURE["made_by"]
    assert made_by["trl"] == "1.12.0"
    for name in ("trl", "torch", "transformers", "accelerate", "numpy"):
        assert f"{name}=={made_by[name].split('+')[0]}" in pins


def test_the_cases_hold_what_they_are_for():
    full, early, unusual = (load(name) for name in OWN_PAD)
    assert full.full.all()
    for case in (early, unusual):
        assert len(case.lengths[~case.full].unique()) >= 3  # early ends at several lengths
        assert (case.full & case.ended).any()  # an eos in the last column
        assert (~case.ended).any()  # cut by the cap
    for name in ("gamma", "lam", "kl_coef", "cliprange", "cliprange_value", "temperature"):
        assert getattr(unusual.settings, name) != getattr(early.settings, name)


# Where the definitions agree.


@pytest.mark.parametrize("name", OWN_PAD)
def test_the_response_is_what_trl_takes_for_it(name):
    case = load(name)
    assert torch.equal(case.sequence_lengths, case.lengths - 1)


@pytest.mark.parametrize("name", OWN_PAD)
def test_rewards_advantages_and_returns_of_rows_that_fill_the_cap(name):
    case = load(name)
    for actual, expected in zip(ours(case, case.mask), (case.rewards, case.advantages_raw, case.returns), strict=True):
        same(actual[case.full], expected[case.full])


@pytest.mark.parametrize("name", OWN_PAD)
def test_whitening_up_to_the_variance_with_n_or_n_minus_1(name):
    case = load(name)
    n = case.mask.sum()
    # TRL divides the squares by n - 1, we divide by n: every advantage of ours is larger by sqrt(n / (n - 1)).
    same(whiten(case.advantages_raw, case.mask) * ((n - 1) / n).sqrt(), case.advantages)


@pytest.mark.parametrize(("case", "step"), of_steps(*OWN_PAD))
def test_policy_loss(case, step):
    logprobs, advantages, mask = (x[step.rows] for x in (case.logprobs, case.advantages, case.mask))
    loss, _ = policy_loss(step.new_logprobs, logprobs, advantages, mask, case.settings.cliprange)
    same(mean(loss), step.pg_loss)
    unclipped, _ = policy_loss(step.new_logprobs, logprobs, advantages, mask, 1e9)
    assert (mean(unclipped) - step.pg_loss).abs() > 1e-3 or step.pg_clipfrac == 0  # where TRL's clip bites, ours has to


@pytest.mark.parametrize(("case", "step"), [p for p in of_steps(*OWN_PAD) if p.values[0].full[p.values[1].rows].all()])
def test_value_loss_of_rows_that_fill_the_cap(case, step):
    values, returns, mask = (x[step.rows] for x in (case.values, case.returns, case.mask))
    same(mean(value_loss(step.vpred, values, returns, mask, case.settings.cliprange_value)), step.vf_loss)
    unclipped = mean(value_loss(step.vpred, values, returns, mask, 1e9))
    assert (unclipped - step.vf_loss).abs() > 1e-3 or step.vf_clipfrac == 0


@pytest.mark.parametrize("name", OWN_PAD)
def test_the_ratio_is_1_at_first_and_both_clips_bite_later(name):
    first, *later = load(name).steps
    assert first.pg_clipfrac == first.vf_clipfrac == 0
    assert all(0 < step.pg_clipfrac < 1 and 0 < step.vf_clipfrac < 1 for step in later)


@pytest.mark.parametrize("name", OWN_PAD)
def test_log_probabilities(name):
    case = load(name)
    step = case.steps[0]
    mask = case.mask[step.rows]
    logprobs = token_logprobs(step.logits, case.responses[step.rows])
    same(logprobs[mask], step.new_logprobs[mask])
    same(logprobs[mask], case.logprobs[step.rows][mask])  # the first step scores what was sampled


# Where TRL is one past: the score of a response that ends early lands in the column after its eos.


@pytest.mark.parametrize("name", ["early", "unusual"])
def test_the_score_of_an_early_eos_is_on_the_eos_and_trl_has_it_one_past(name):
    case = load(name)
    rewards, _, _ = ours(case, case.mask)
    for row in (~case.full).nonzero().flatten().tolist():
        n, score = int(case.lengths[row]), case.scores[row]
        same(case.rewards[row, n], score)
        same(rewards[row, n], torch.tensor(0.0))
        same(rewards[row, n - 1] - case.rewards[row, n - 1], score)
        same(rewards[row, : n - 1], case.rewards[row, : n - 1])


@pytest.mark.parametrize("name", ["early", "unusual"])
def test_what_one_past_does_to_advantages(name):
    """The score reaches the eos only through gamma lam, and the value after the eos, which is nobody's, through the
    rest: A_TRL - A = gamma (1 - lam) V_past - (1 - gamma lam) score at the eos, times gamma lam for each column
    before it. Returns differ by the same, and the value head is taught one column too many, that its value is the
    score.
    """
    case = load(name)
    s = case.settings
    _, advantages, returns = ours(case, case.mask)
    for row in (~case.full).nonzero().flatten().tolist():
        n, score = int(case.lengths[row]), case.scores[row]
        at_eos = s.gamma * (1 - s.lam) * case.values[row, n] - (1 - s.gamma * s.lam) * score
        gap = at_eos * (s.gamma * s.lam) ** torch.arange(n - 1, -1, -1)
        same(case.advantages_raw[row, :n] - advantages[row, :n], gap)
        same(case.returns[row, :n] - returns[row, :n], gap)
        same(case.returns[row, n], score)
        assert returns[row, n] == 0


@pytest.mark.parametrize("name", ["early", "unusual"])
def test_the_longer_mask_is_the_whole_difference(name):
    """Our functions, given a mask of one column more, give all of TRL's numbers."""
    case = load(name)
    for actual, expected in zip(
        ours(case, case.one_past), (case.rewards, case.advantages_raw, case.returns), strict=True
    ):
        same(actual, expected)


@pytest.mark.parametrize(("case", "step"), of_steps("early", "unusual"))
def test_value_loss_with_the_longer_mask(case, step):
    values, returns, mask = (x[step.rows] for x in (case.values, case.returns, case.one_past))
    same(mean(value_loss(step.vpred, values, returns, mask, case.settings.cliprange_value)), step.vf_loss)


def test_one_past_in_figures():
    """The response of three tokens, the eos last: what it is worth to TRL, and to us."""
    case = load("early")
    row = case.lengths.tolist().index(3)
    rewards, advantages, returns = ours(case, case.mask)
    shown = [case.rewards, rewards, case.advantages_raw, advantages, case.returns, returns]
    assert torch.stack([x[row, :4] for x in shown]).tolist() == [
        pytest.approx(figures, abs=6e-4)
        for figures in (
            [-0.044, -0.026, -0.137, 0.094],  # rewards of TRL: the score, 0.094, is in the fourth column of three
            [-0.044, -0.026, -0.043, 0.0],  # ours
            [1.649, 1.017, 1.822, 2.448],  # raw advantages of TRL
            [1.759, 1.133, 1.944, 0.0],
            [-0.377, -0.283, -0.165, 0.094],  # returns of TRL
            [-0.267, -0.166, -0.043, 0.0],
        )
    ]


# Where TRL's pad is eos: the same models, prompts and responses as in "early".


def test_pad_is_eos_ends_the_response_before_its_eos():
    case, early = load("pad_is_eos"), load("early")
    assert torch.equal(case.responses, early.responses)
    assert torch.equal(case.sequence_lengths, case.lengths - 1 - case.ended.long())
    assert torch.equal(early.sequence_lengths, early.lengths - 1)
    # The reward model reads the token before the eos: another score for what ended, the same for what was cut.
    assert ((case.scores - early.scores).abs() > 0.1).tolist() == case.ended.tolist()
    same(case.scores[~case.ended], early.scores[~case.ended])


def test_pad_is_eos_puts_the_score_on_the_eos_and_loses_its_kl():
    """One past the token before the eos is the eos: two wrongs make the place right."""
    case, early = load("pad_is_eos"), load("early")
    kl = early.logprobs - early.ref_logprobs
    case.logprobs, case.ref_logprobs = early.logprobs, early.ref_logprobs  # TRL has 1.0 for both under the eos
    rewards, _, _ = ours(case, case.mask)
    at_eos = case.mask & ~case.without_eos
    assert torch.equal(case.rewards[at_eos], case.scores[case.ended])
    same((rewards - case.rewards)[at_eos], -case.settings.kl_coef * kl[at_eos])
    same(rewards[~at_eos], case.rewards[~at_eos])


def test_pad_is_eos_never_learns_to_end():
    """Every eos has an advantage of 0 and no part in the mean; a response that is only an eos teaches nothing."""
    case = load("pad_is_eos")
    at_eos = case.mask & ~case.without_eos
    assert int(at_eos.sum()) == int(case.ended.sum()) == 5
    assert (case.advantages[at_eos] == 0).all()
    assert (load("early").advantages[at_eos] != 0).all()
    n = case.without_eos.sum()
    same(whiten(case.advantages_raw, case.without_eos) * ((n - 1) / n).sqrt(), case.advantages)
    for step in case.steps:
        logprobs, advantages, without = (x[step.rows] for x in (case.logprobs, case.advantages, case.without_eos))
        mask = case.mask[step.rows]
        loss, _ = policy_loss(step.new_logprobs, logprobs, advantages, without, case.settings.cliprange)
        same(mean(loss), step.pg_loss)
        whole, _ = policy_loss(step.new_logprobs, logprobs, advantages, mask, case.settings.cliprange)
        same(whole[0], loss[0])  # the same sum, over fewer tokens
        assert whole[1] > loss[1]
        # The value head does learn at the eos: there the one column more is the right one.
        values, returns = case.values[step.rows], case.returns[step.rows]
        same(mean(value_loss(step.vpred, values, returns, mask, case.settings.cliprange_value)), step.vf_loss)


# Where the two merely measure or choose another thing.


@pytest.mark.parametrize(("case", "step"), of_steps(*OWN_PAD))
def test_what_is_watched_is_defined_otherwise(case, step):
    s = case.settings
    logprobs, advantages, mask = (x[step.rows] for x in (case.logprobs, case.advantages, case.mask))
    _, stats = policy_loss(step.new_logprobs, logprobs, advantages, mask, s.cliprange)
    n, everything = mask.sum(), mask.numel()
    # Ratio: TRL's mean counts the columns after the response, where the ratio is 1.
    same((stats["ratio_mean"] + (everything - n)) / everything, step.ratio_mean)
    # Approximate KL: TRL has k2 and counts those columns too, where it is 0; ours is k3.
    log_ratio = (step.new_logprobs - logprobs)[mask].double()
    same((log_ratio**2).sum().float() / 2 / everything, step.approxkl)
    same((log_ratio.exp() - 1 - log_ratio).mean().float(), stats["approx_kl"] / n)
    # Clip fraction: TRL counts tokens whose loss the clip changes, we count all whose ratio is outside.
    outside = (log_ratio.exp() - 1).abs() > s.cliprange
    pushed_on = (log_ratio * advantages[mask]) > 0
    same((outside & pushed_on).float().mean(), step.pg_clipfrac)
    same(outside.float().mean(), stats["clip_fraction"] / n)


def test_a_response_without_eos_loses_the_penalty():
    case = load("unusual")
    assert case.settings.missing_eos_penalty == 1.0
    same(case.scores, case.reward_model_scores - (~case.ended).float())
    assert not case.ended.all()
    scale = ScoreScale(mean=0.0, std=1.0, missing_eos_penalty=1.0)
    same(scale.scores(case.reward_model_scores, case.ended), case.scores)
