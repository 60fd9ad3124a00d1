"""The rules on made-up figures; tests/recipes/test_faults.py has real runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.config import build, to_toml
from plaudit.evaluation.diagnosis import FAULTS, FIRST, diagnose

N = 24
HEALTHY = {  # of 128 responses an iteration
    "score": np.linspace(0.0, 0.8, N),
    "score_std": np.full(N, 0.7),
    "score_normalised": np.linspace(-0.1, 1.0, N),
    "reward": np.linspace(-0.1, 0.8, N),
    "kl": np.linspace(0.0, 4.0, N),
    "entropy": np.linspace(2.6, 2.2, N),
    "clip_fraction": np.linspace(0.15, 0.0, N),
    "approx_kl": np.linspace(0.02, 0.0, N),
    "approx_kl_max": np.linspace(0.2, 0.0, N),
    "optimizer_steps": np.array([3.0] + [8.0] * (N - 1)),
    "value_loss": np.full(N, 0.2),
    "explained_variance": np.full(N, 0.4),
    "value_correlation": np.full(N, 0.6),
    "fit_correlation": np.full(N, 0.4),
    "kl_coef": np.full(N, 0.15),
    "kl_coef_measured": np.array([np.nan] + [0.15] * (N - 1)),
    "eos_rate": np.full(N, 0.98),
    "response_length": np.full(N, 18.0),
    "distinct_2": np.linspace(0.8, 0.65, N),
}
FAULTY = {
    "learning_rate": {"optimizer_steps": np.full(N, 1.0)},
    "critic": {"value_correlation": np.full(N, 0.05), "explained_variance": np.full(N, -0.3)},
    "entropy": {"entropy": np.linspace(2.6, 0.6, N)},
    "kl_penalty": {"kl_coef_measured": np.zeros(N)},
    "cut_off": {"eos_rate": np.full(N, 0.4)},
    "nothing_learned": {"score_normalised": np.zeros(N), "score": np.zeros(N)},
}


def lines(figures):
    columns = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in figures.items()}
    return [{"step": i + 1} | {k: v[i] for k, v in columns.items()} for i in range(len(next(iter(columns.values()))))]


@pytest.fixture
def run(tmp_path):
    """Writes a run directory with these figures of a stage, and settings."""

    def write(figures, stage="ppo", summary=None, **options):
        config = build({"ppo.iterations": N} | {f"{stage}.{name}": value for name, value in options.items()})
        (tmp_path / stage).mkdir(exist_ok=True)
        (tmp_path / "config.toml").write_text(to_toml(config, {}))
        text = "".join(json.dumps(line) + "\n" for line in lines(figures))
        (tmp_path / stage / "metrics.jsonl").write_text(text)
        if summary is not None:
            (tmp_path / stage / "summary.json").write_text(json.dumps(summary))
        return tmp_path

    return write


def faults(folder):
    return [finding.fault for finding in diagnose(folder)]


def test_healthy_figures_have_no_finding_at_any_time(run):
    for n in range(1, N + 1):
        assert faults(run({name: values[:n] for name, values in HEALTHY.items()})) == []


@pytest.mark.parametrize("fault", FAULTY)
def test_each_fault_alone_is_named_with_its_evidence(run, fault):
    (finding,) = diagnose(run(HEALTHY | FAULTY[fault]))
    assert finding.fault == fault
    assert finding.stage == "ppo"
    assert finding.sentence.lower().startswith(FAULTS[fault].lower())
    assert finding.sentence.endswith(".")
    assert finding.figures
    assert all(np.isfinite(v) for v in finding.figures.values())


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_is_named_while_the_run_is_in_progress(run, fault):
    figures = HEALTHY | FAULTY[fault]
    found = [faults(run({name: values[:n] for name, values in figures.items()})) for n in range(1, N + 1)]
    assert found[: FIRST - 1] == [[]] * (FIRST - 1)
    assert [fault] in found[: 3 * N // 4]
    assert all(some in ([], [fault]) for some in found)


@pytest.mark.parametrize("fault", FAULTY)
def test_a_moment_of_a_fault_is_none(run, fault):
    """One iteration with the faulty figures, in the middle of healthy ones."""
    figures = {name: values.copy() for name, values in HEALTHY.items()}
    for name, values in FAULTY[fault].items():
        figures[name][N // 2] = values[-1]
    assert faults(run(figures)) == []


def test_a_finding_says_since_when(run):
    cut = np.array([0.98] * 10 + [0.2] * (N - 10))
    (finding,) = diagnose(run(HEALTHY | {"eos_rate": cut}))
    assert finding.since in (11, 12)
    assert f"since iteration {finding.since}" in finding.sentence


def test_limits_that_are_drawn_cut_responses_off_on_purpose(run):
    assert faults(run(HEALTHY | FAULTY["cut_off"], min_new_tokens=5)) == []


def test_a_missing_penalty_is_seen_in_the_figures_and_not_in_the_setting(run):
    assert faults(run(HEALTHY | {"kl": np.full(N, 0.2)} | FAULTY["kl_penalty"], kl_coef=0.0)) == []
    assert faults(run(HEALTHY, kl_coef=0.0)) == []
    (on_purpose,) = diagnose(run(HEALTHY | FAULTY["kl_penalty"], kl_coef=0.0))
    (lost,) = diagnose(run(HEALTHY | FAULTY["kl_penalty"]))
    assert "on purpose" in on_purpose.sentence
    assert "gets lost" in lost.sentence


def test_a_reward_that_nothing_foresees_is_no_broken_critic(run):
    weak = {"fit_correlation": np.full(N, 0.08)}
    assert faults(run(HEALTHY | FAULTY["critic"] | weak)) == []


def test_a_sudden_jump_of_the_kl_is_too_high_a_learning_rate_for_every_algorithm(run):
    kl = np.array([0.0, 40.0, *np.full(N - 2, 60.0)])
    names = ("clip_fraction", "approx_kl", "approx_kl_max", "value_correlation", "fit_correlation")
    figures = {name: values for name, values in (HEALTHY | {"kl": kl}).items() if name not in names}
    assert faults(run(figures, "reinforce", iterations=N)) == ["learning_rate"]


def test_a_jump_of_the_kl_after_a_small_update_comes_from_the_responses(run):
    kl = np.array([0.0, 40.0, *np.full(N - 2, 60.0)])
    assert faults(run(HEALTHY | {"kl": kl})) == []
    large = {"approx_kl_max": np.array([0.9] + [0.1] * (N - 1))}
    assert faults(run(HEALTHY | {"kl": kl} | large)) == ["learning_rate"]


def test_a_limit_that_cuts_off_the_responses_of_sft_is_named_though_the_policy_adapts(run):
    learned = np.array([0.3, 0.3, *np.linspace(0.4, 1.0, N - 2)])
    (finding,) = diagnose(run(HEALTHY | {"eos_rate": learned}))
    assert (finding.fault, finding.since) == ("cut_off", 1)
    assert "Only 30% of the SFT model's own responses" in finding.sentence
    assert "has learned to write shorter ones" in finding.sentence


@pytest.mark.parametrize("other", sorted(set(FAULTY) - {"cut_off", "nothing_learned"}))
def test_a_policy_that_writes_on_is_an_effect_of_any_other_fault(run, other):
    """The limit was high enough for the SFT model."""
    endless = {"eos_rate": np.array([0.98] * 3 + [0.1] * (N - 3))}
    assert faults(run(HEALTHY | endless)) == ["cut_off"]
    assert faults(run(HEALTHY | endless | FAULTY["nothing_learned"])) == ["cut_off"]
    assert faults(run(HEALTHY | endless | FAULTY[other])) == [other]
    assert faults(run(HEALTHY | FAULTY["cut_off"] | FAULTY[other])) == [other, "cut_off"]


def test_the_cause_is_named_and_not_that_nothing_was_learned_for_it(run):
    assert faults(run(HEALTHY | FAULTY["entropy"] | FAULTY["nothing_learned"])) == ["entropy"]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"kl": np.zeros(N)}, "has not moved"),
        ({"score_std": np.zeros(N)}, "same score"),
        ({}, "depends on the response"),
    ],
)
def test_why_nothing_was_learned(run, figures, words):
    (finding,) = diagnose(run(HEALTHY | FAULTY["nothing_learned"] | figures))
    assert words in finding.sentence


def test_the_warnings_of_reward_hacking_are_findings(run):
    folder = run(HEALTHY)
    windows = [
        {"step": 4 * i, "responses": 640, "score": i / 5, "score_std": 0.5, "judge_positive": 0.8 - i / 10}
        | {"distinct_2": 0.8, "perplexity_ref": 14.0}
        for i in range(1, 7)
    ]
    text = "".join(json.dumps(window) + "\n" for window in windows)
    (folder / "ppo" / "watch.jsonl").write_text(text)
    (finding,) = diagnose(folder)
    assert (finding.fault, finding.since) == ("hacking", 16)
    assert finding.sentence.startswith("Reward hacking")
    (folder / "ppo" / "watch.jsonl").write_text(text[:-20])
    diagnose(folder)


@pytest.mark.parametrize("stage", ["sft", "reward_model"])
@pytest.mark.parametrize(
    ("copies", "named"), [(None, False), (0, False), (2, False), (15, False), (16, True), (800, True)]
)
def test_near_copies_among_the_held_out_texts_are_a_leak(run, stage, copies, named):
    found = {"count": copies, "texts": 800, "example": {"held_out": "a film " * 20, "training": "A film."}}
    folder = run({"loss": np.ones(1)}, stage, {} if copies is None else {"near_copies": found})
    assert faults(folder) == ["leak"] * named
    assert all("a film a film" in f.sentence and f"{copies} of 800" in f.sentence for f in diagnose(folder))


@pytest.mark.parametrize(
    ("last", "named"), [(3.0, []), (4.0, ["nothing_learned"]), (5.0, ["learning_rate"]), (np.nan, [])]
)
def test_the_loss_of_sft(run, last, named):
    assert faults(run({"loss": np.array([4.0] * 20 + [3.9] * 30 + [last] * 20)}, "sft")) == named


def test_missing_and_damaged_files_are_read_as_far_as_they_go(run, tmp_path):
    assert diagnose(tmp_path / "nowhere") == []
    folder = run(HEALTHY | FAULTY["cut_off"])
    path = folder / "ppo" / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    assert faults(folder) == ["cut_off"]
    path.write_bytes(whole + b'\xff\xfe[1, 2]\n{"step": "one"}\n{"step": 1e999}\n')
    assert faults(folder) == ["cut_off"]
    (folder / "config.toml").write_text("half a li = [")
    assert "cut_off" in faults(folder)
    (folder / "ppo" / "watch.jsonl").write_text('{"step": 1}\n[]\n')
    (folder / "ppo" / "summary.json").write_text("{")
    assert "cut_off" in faults(folder)


NUMBERS = st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=3), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["step", *HEALTHY]), NUMBERS), max_size=30), st.data())
def test_no_figures_raise(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("run")
    for stage in ("ppo", "sft"):
        (folder / stage).mkdir()
        steps = [{"step": i} | row for i, row in enumerate(rows)]
        (folder / stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
        (folder / stage / "summary.json").write_text(
            json.dumps(
                {
                    "near_copies": data.draw(
                        st.one_of(NUMBERS, st.dictionaries(st.sampled_from(["count", "texts", "example"]), NUMBERS))
                    )
                }
            )
        )
    for finding in diagnose(folder):
        assert finding.fault in FAULTS


@pytest.mark.parametrize("cause", ["learning_rate", "critic", "entropy"])
def test_what_begins_after_a_cause_is_named_in_its_sentence(run, cause):
    cut = np.array([0.98] * 18 + [0.2] * (N - 18))
    (finding,) = diagnose(run(HEALTHY | FAULTY[cause] | {"eos_rate": cut}))
    assert finding.fault == cause
    assert "It explains what shows later: responses cut off" in finding.sentence


def test_the_page_of_the_docs_has_every_fault():
    page = (Path(__file__).parents[2] / "docs" / "training-faults.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in FAULTS.values())
