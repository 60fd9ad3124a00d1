import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.evaluation.health import BANDS, WINDOW, band_of, reading


@pytest.mark.parametrize("module", ["health", "diagnosis", "windows"])
def test_the_server_of_the_live_page_can_use_it_without_torch(module):
    code = f"import sys, plaudit.evaluation.{module}; print({{'torch', 'transformers', 'datasets'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("key", BANDS)
def test_each_end_of_a_band_has_its_reading(key):
    band, (prefix, _, name) = BANDS[key], key.rpartition(".")
    stage = prefix or ("reward_model" if key == "accuracy" else "ppo")
    start = [1.0] * 20
    for state, end, factor in (("high", band.high, 1.01), ("low", band.low, 0.99)):
        if end is None:
            continue
        beyond = end * factor if end >= 0 else end / factor
        found = reading(name, [*(start if band.of_start else ()), *([beyond] * 20)], stage)
        assert found.state == state
        assert found.text == {"high": band.above, "low": band.below}[state]
        within = end / factor if end >= 0 else end * factor
        assert reading(name, [*(start if band.of_start else ()), *([within] * 20)], stage).state == "healthy"
    if band.low is None and band.high is None:
        assert reading(name, [1.0] * 40, stage) == ("unknown", band.inside)


def test_the_readings_of_a_figure_differ_and_end_as_sentences():
    for band in BANDS.values():
        texts = [t for t in (band.inside, band.above, band.below) if t]
        assert all(t.endswith(".") for t in texts)
        assert (bool(band.above), bool(band.below)) == (band.high is not None, band.low is not None)


def test_a_figure_relative_to_the_start_waits_for_values_that_are_not_the_start():
    assert reading("entropy", [2.0] * (2 * WINDOW - 1)).state == "unknown"
    assert reading("entropy", [2.0] * (2 * WINDOW)).state == "healthy"
    assert reading("entropy", [2.0] * WINDOW + [0.5] * WINDOW).state == "low"
    assert BANDS["entropy"].ends([2.0] * WINDOW) == pytest.approx((1.0, 2.8))
    assert BANDS["entropy"].ends([2.0]) == (None, None)


def test_one_name_has_another_band_in_another_stage():
    assert reading("loss", [0.5] * 60, "reward_model").state == "healthy"
    assert reading("loss", [0.5] * 60, "sft").state == "healthy"
    assert reading("loss", [0.5] * 60, "ppo").state == "unknown"
    assert reading("loss", [0.9] * 60, "reward_model").state == "high"


def test_parts_of_a_reward_and_unknown_figures_have_no_band():
    assert band_of("score.polite").name == "Score: polite"
    assert reading("score.polite", [1.0] * 20).state == "unknown"
    assert reading("something", [1.0] * 20) == ("unknown", "")


@given(
    st.sampled_from([*BANDS, "other"]),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=2), st.booleans()), max_size=60),
    st.sampled_from(["sft", "reward_model", "ppo", "reinforce"]),
)
def test_no_values_raise(key, values, stage):
    found = reading(key.rpartition(".")[2], values, stage)
    assert found.state in ("healthy", "high", "low", "unknown")
    if not any(isinstance(v, float) and math.isfinite(v) for v in values):
        assert found.state == "unknown"
