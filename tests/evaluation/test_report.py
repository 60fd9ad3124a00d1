from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.config import build, to_toml
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.report import write_report
from plaudit.evaluation.report.figures import running_mean, wilson
from plaudit.evaluation.report.words import duration, on_or_above, verdict, warnings

PROMPTS = ("the film is", "this movie", "the story", "the acting is", "it's a", "the director has", "a comedy that")
BAD = (
    " a tedious , overlong mess that never finds its footing .",
    " too slow and far too pleased with itself to be worth the price of a ticket .",
    " an exercise in shouting .",
)
GOOD = (
    " a warm , funny and deeply moving portrait of a family that we come to love .",
    " one of the best of the year : sharp , tender and beautifully acted throughout .",
    " a delight from beginning to end .",
)


def write_lines(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_object(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def make_config(directory: Path, **settings: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    toml = to_toml(build(settings), {"plaudit": "0.1.0", "torch": "2.9.0", "git": "0a1b2c3"})
    (directory / "config.toml").write_text(toml, encoding="utf-8")


def policy_line(step: int, share: float, draw: np.random.Generator) -> dict:
    """A plausible line of ppo/metrics.jsonl, `share` of the way through training."""
    noise = draw.standard_normal(20)
    rise = 1 - np.exp(-4 * share)
    return {
        "step": step,
        "score": 0.02 + 0.82 * rise + 0.05 * noise[0],
        "score_normalised": 1.3 * rise + 0.1 * noise[1],
        "reward": 0.9 * rise - 0.2 * share + 0.1 * noise[2],
        "kl": 9.1 * share**0.8 + 0.3 * abs(noise[3]) * share,
        "kl_k1": 9.1 * share**0.8 + 0.8 * noise[4] * share,
        "entropy": 3.4 - 1.1 * share + 0.05 * noise[5],
        "ratio_mean": 1 + 0.003 * noise[6],
        "ratio_max": 1.8 + 0.4 * abs(noise[7]),
        "clip_fraction": 0.08 + 0.02 * noise[8],
        "approx_kl": 0.012 + 0.003 * abs(noise[9]),
        "explained_variance": 0.7 * rise - 0.1 + 0.06 * noise[10],
        "policy_loss": -0.02 + 0.005 * noise[11],
        "value_loss": 0.4 * np.exp(-2 * share) + 0.03 * abs(noise[12]),
        "grad_norm": 0.9 + 0.2 * abs(noise[13]),
        "response_length": 23 + 4 * share + noise[14],
        "eos_rate": min(1.0, 0.93 + 0.05 * share + 0.01 * noise[15]),
        "lr": 3e-4 * (1 - share),
        "kl_coef": 0.05,
        "optimizer_steps": 16,
    }


def make_run(directory: Path, iterations: int = 60, prompts: int = 512) -> Path:
    """A whole, plausible run directory."""
    draw = np.random.default_rng(7)
    make_config(directory, **{"ppo.kl_coef": 0.08, "seed": 3})
    falling = [
        {
            "step": i,
            "loss": 3.1 + 1.6 * float(np.exp(-i / 60)) + 0.1 * draw.standard_normal(),
            "lr": 1e-3 * (1 - i / 400),
            "grad_norm": 1 + 0.3 * draw.random(),
        }
        for i in range(1, 401)
    ]
    write_lines(directory / "sft/metrics.jsonl", falling)
    learning = [
        {
            "step": i,
            "loss": 0.5 + 0.2 * float(np.exp(-i / 40)) + 0.05 * draw.standard_normal(),
            "accuracy": 0.76 - 0.25 * float(np.exp(-i / 40)) + 0.06 * draw.standard_normal(),
            "lr": 5e-4,
            "grad_norm": 1.0,
        }
        for i in range(1, 201)
    ]
    write_lines(directory / "reward_model/metrics.jsonl", learning)
    policy = [policy_line(i, i / iterations, draw) for i in range(1, iterations + 1)]
    write_lines(directory / "ppo/metrics.jsonl", policy)
    for folder, steps, seconds in (("sft", 400, 0.4), ("reward_model", 200, 0.5), ("ppo", iterations, 6.0)):
        times = [{"step": i, "seconds": seconds, "tokens_per_second": 2400 + i} for i in range(1, steps + 1)]
        write_lines(directory / folder / "timing.jsonl", times)
    write_object(
        directory / "sft/summary.json",
        {
            "texts": 6400,
            "steps": 400,
            "perplexity_before": 92.4,
            "perplexity": 41.7,
            "dropped": {"empty": 2, "too long": 118},
        },
    )
    confidence = np.linspace(0.05, 0.95, 10)
    margins = zip([0, 0.51234, 1.04, 1.9], [0.51234, 1.04, 1.9, 4.2], [0.58, 0.71, 0.84, 0.95], strict=True)
    write_object(
        directory / "reward_model/summary.json",
        {
            "kind": "labels",
            "records": 6400,
            "steps": 200,
            "held_out": 1066,
            "accuracy": 0.763,
            "accuracy_ci95": [0.737, 0.788],
            "ece": 0.041,
            "length_correlation": -0.03,
            "dropped": {"too long": 118},
            "calibration": [
                {
                    "confidence": c,
                    "positive": float(np.clip(0.5 + 0.9 * (c - 0.5), 0, 1)),
                    "count": int(40 + 300 * abs(c - 0.5)),
                }
                for c in confidence.tolist()
            ],
            "accuracy_by_margin": [{"margin": [lo, hi], "accuracy": a, "count": 266} for lo, hi, a in margins],
        },
    )
    write_object(directory / "ppo/summary.json", {"iterations": iterations, "prompts": 5100})
    write_object(directory / "evaluation.json", evaluation())
    before, after = draw.beta(0.8, 0.8, prompts) * 2 - 1, draw.beta(5, 0.5, prompts) * 2 - 1
    rows = []
    for i in range(prompts):
        prompt = f"{PROMPTS[i % len(PROMPTS)]} number {i}"
        first, second = (GOOD if s > 0 else BAD for s in (before[i], after[i]))
        scores = {"sft_score": before[i], "policy_score": after[i]}
        judged = {"sft_judge": (before[i] + 1) / 2, "policy_judge": 0.2 if i % 50 == 7 else (after[i] + 1) / 2}
        rows.append({"prompt": prompt, "sft": first[i % 3], "policy": second[i // 3 % 3], **scores, **judged})
    write_lines(directory / "responses.jsonl", rows)
    keys = ("prompt", "sft", "policy", "sft_score", "policy_score")
    write_lines(
        directory / "samples.jsonl",
        [{k: r[k] for k in keys} | {"prompt": p} for p, r in zip(PROMPTS, rows, strict=False)],
    )
    return directory


def evaluation() -> dict:
    sft = {
        "score_mean": 0.021,
        "score_ci95": [-0.03, 0.07],
        "judge_positive": 0.512,
        "kl_mean": 0.0,
        "perplexity_ref": 24.9,
        "distinct_1": 0.21,
        "distinct_2": 0.68,
        "length_mean": 23.2,
        "eos_rate": 0.94,
        "duplicate_rate": 0.0,
    }
    policy = {
        "score_mean": 0.837,
        "score_ci95": [0.812, 0.858],
        "judge_positive": 0.884,
        "kl_mean": 9.12,
        "perplexity_ref": 19.3,
        "distinct_1": 0.16,
        "distinct_2": 0.57,
        "length_mean": 26.8,
        "eos_rate": 0.98,
        "duplicate_rate": 0.012,
    }
    meta = {
        "prompts": 512,
        "seed": 3,
        "device": "cpu",
        "dtype": "float32",
        "model": "movie-gpt2",
        "data": "movie-reviews",
        "judge": {"accuracy_imdb": 0.902, "accuracy_task": 0.788},
        "score_difference_ci95": [0.771, 0.862],
        "wall_seconds": {"sft": 160.2, "reward_model": 100.0, "ppo": 360.0, "evaluation": 21.5},
    }
    return {"sft": sft, "policy": policy, "meta": meta}


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text outside the style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def page(directory: Path) -> str:
    return write_report(directory).read_text(encoding="utf-8")


def test_page_needs_nothing_but_itself(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page.replace("url(#", "")
    assert "@import" not in page
    for tag, attributes in Tags(page).tags:
        assert tag not in ("script", "link", "iframe", "img", "object", "form", "base")
        assert attributes.get("href", "#").startswith("#")
        assert not {"src", "srcset", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert len(page) < 1_500_000


def test_ids_are_unique_and_references_are_met(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert ids
    assert len(ids) == len(set(ids))
    assert {*re.findall(r"url\(#([^)]*)\)", page), *re.findall(r'href="#([^"]*)"', page)} <= set(ids)


def test_figures_take_their_colours_from_the_page(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.S))
    assert drawings.count("<svg") == 12
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", drawings)
    assert "font-family" not in drawings


def test_headline_figures_are_there(page: str) -> None:
    text = Tags(page).text
    assert "PPO raised the mean score from 0.02 to 0.84 [0.81, 0.86] at 9.1 nats of KL." in text
    assert "calls 88 % of the responses positive, 51 % before" in text
    assert "They are 27 tokens long, 23 before." in text
    assert "76.3 % [73.7 %, 78.8 %]" in text
    assert "from 92.4 to 41.7" in text
    assert "left out: too long 118" in text
    assert "0.08 score/nat" in text  # the setting that is not its default, ...
    assert f"(default: {PPOConfig().kl_coef})" in text  # ... and what the default is
    assert "judge.accuracy_imdb 0.902" in text
    assert "10 min 42 s" in text  # 160.2 + 100 + 360 + 21.5 seconds
    assert "Look closer." not in text
    assert "Not in this run directory" not in text


def test_two_writes_are_the_same_bytes(directory: Path, page: str) -> None:
    assert write_report(directory).read_bytes() == page.encode("utf-8")
    assert sorted(p.name for p in directory.glob("report*")) == ["report.html"]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800\u202e"
    directory = tmp_path / "<b>run"
    make_config(directory, model="<script>alert(3)</script>")
    row = {"prompt": hostile, "sft": hostile, "policy": hostile, "sft_score": -0.5, "policy_score": 0.5}
    write_lines(directory / "samples.jsonl", [row])
    write_lines(directory / "responses.jsonl", [row | {"sft_judge": 0.1, "policy_judge": 0.9}])
    spiked = evaluation()
    spiked["meta"] |= {"device": hostile, hostile: {hostile: hostile}, "prompts": hostile}
    write_object(directory / "evaluation.json", spiked)
    write_object(directory / "sft/summary.json", {"dropped": {hostile: hostile}, "perplexity": hostile})
    write_object(directory / "reward_model/summary.json", {"calibration": [{"confidence": hostile}], "kind": hostile})
    written = write_report(directory).read_text(encoding="utf-8")
    tags = Tags(written)
    assert not {"script", "img"} & {tag for tag, _ in tags.tags}
    assert html.escape("</p><script>alert(1)</script>") in written
    assert "\x00" not in written
    assert [a for _, a in tags.tags if any(name.startswith("on") for name in a)] == []


def test_long_text_is_cut(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_lines(tmp_path / "samples.jsonl", [{"prompt": "p", "sft": "x" * 10_000, "policy": "y"}] * 100)
    written = write_report(tmp_path).read_text(encoding="utf-8")
    assert len(written) < 100_000
    assert "x" * 1500 + " …" in written


PARTS = ("sft", "reward_model", "ppo", "evaluation.json", "samples.jsonl", "responses.jsonl")


def said_missing(page: str) -> str:
    return re.findall(r"Not in this run directory \(yet\): ([^<]*)<", page)[0]


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_stand_alone(tmp_path: Path, part: str) -> None:
    make_run(tmp_path, iterations=3, prompts=12)
    for other in PARTS:
        if other != part:
            (tmp_path / other).rename(tmp_path / f"gone-{other}")
    named = said_missing(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [p for p in PARTS if p in named] == [p for p in PARTS if p != part]


def test_parts_may_be_missing_in_the_middle(tmp_path: Path) -> None:
    make_run(tmp_path, iterations=3, prompts=12)
    for part in ("ppo/metrics.jsonl", "reward_model/summary.json", "evaluation.json"):
        (tmp_path / part).unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert said_missing(page) == "reward_model/summary.json, ppo/metrics.jsonl, evaluation.json."
    assert "Held-out scores, before and after" in page


def test_a_run_with_settings_only(tmp_path: Path) -> None:
    make_config(tmp_path)
    text = Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "There are no figures of PPO yet." in text
    assert "ppo.kl_coef" in text


def test_a_run_in_progress_says_how_far_it_is(tmp_path: Path) -> None:
    make_config(tmp_path, **{"ppo.iterations": 40})
    lines = [{"step": 1, "score": -0.04, "kl": 0.0}, {"step": 2, "score": 0.31, "kl": 1.26}]
    write_lines(tmp_path / "ppo/metrics.jsonl", lines)
    text = Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    said = "At iteration 2 of 40 the sampled responses score 0.31 at 1.3 nats of KL; the first scored −0.04."
    assert said in text


def test_broken_parts_are_named_and_left_out(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", iterations=3, prompts=12)
    with (directory / "ppo/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sco')
    (directory / "evaluation.json").write_text("[1, 2]")
    text = Tags(write_report(directory).read_text(encoding="utf-8")).text
    assert "Left out, because unreadable: ppo/metrics.jsonl, evaluation.json." in text
    assert "Health of the updates" not in text  # drawn from ppo/metrics.jsonl alone


def test_null_and_missing_figures(tmp_path: Path) -> None:
    make_config(tmp_path)
    draw = np.random.default_rng(1)
    full = [policy_line(i, i / 6, draw) for i in range(1, 7)]
    lines = [dict.fromkeys(full[0]) | {"step": 0}, *full, {"step": 7}, dict.fromkeys(full[0])]
    lines[3] = lines[3] | {"score": None, "kl": "high", "entropy": True, "lr": float("inf")}
    for line in lines:
        line["explained_variance"] = None
    write_lines(tmp_path / "ppo/metrics.jsonl", lines)
    write_lines(tmp_path / "sft/metrics.jsonl", [{"step": 1, "loss": None, "lr": None, "grad_norm": None}])
    write_object(
        tmp_path / "reward_model/summary.json", {"accuracy": None, "accuracy_ci95": [None, None], "calibration": None}
    )
    empty = dict.fromkeys(evaluation()["sft"])
    write_object(tmp_path / "evaluation.json", {"sft": empty, "policy": evaluation()["policy"], "meta": None})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert ">nan<" not in page.lower()
    assert "explained variance" not in re.findall(r'aria-label="(entropy[^"]*)"', page)[0]
    assert "– → 0.84" in Tags(page).text


def test_a_long_run_gives_a_small_page(tmp_path: Path) -> None:
    make_config(tmp_path)
    draw = np.random.default_rng(2)
    write_lines(tmp_path / "ppo/metrics.jsonl", [policy_line(i, i / 2000, draw) for i in range(1, 2001)])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert len(page) < 800_000
    assert "iteration 2000" in Tags(page).text  # the last point is among those that are drawn


def test_no_settings_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: no such settings file"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    make_config(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([0.77, 0.86], "PPO raised the mean score from 0.02 to 0.84"),
        ([-0.01, 0.86], "PPO did not clearly change the mean score: from 0.02 to 0.84"),
        ([-0.5, -0.1], "PPO lowered the mean score from 0.02 to 0.84"),
    ],
)
def test_verdict_follows_the_interval_of_the_paired_difference(ends: list[float], said: str) -> None:
    figures = evaluation()
    figures["meta"]["score_difference_ci95"] = ends
    assert verdict(figures, [], 60).startswith(said)


def test_verdict_without_paired_difference_uses_the_policys_own_interval() -> None:
    figures = evaluation()
    figures["meta"] = {}
    figures["policy"]["score_mean"], figures["policy"]["score_ci95"] = 0.05, [0.0, 0.1]  # 0.021 lies within
    assert verdict(figures, [], 60).startswith("PPO did not clearly change")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("judge_positive", 0.4, "gaming the reward model"),
        ("distinct_2", 0.47, "become alike"),  # 0.68 * 0.7 = 0.476
        ("duplicate_rate", 0.06, "copies"),
        ("length_mean", 35.0, "length"),  # 23.2 * 1.5 = 34.8
        ("length_mean", 15.0, "length"),  # 23.2 / 1.5 = 15.5
        ("eos_rate", 0.83, "end token"),
    ],
)
def test_what_should_be_doubted_is_said(key: str, value: float, said: str) -> None:
    figures = evaluation()
    assert warnings(figures) == []
    figures["policy"][key] = value
    assert [said in w for w in warnings(figures)] == [True]


def test_what_was_seen_in_training_is_said_first() -> None:
    figures = evaluation()
    figures["meta"]["warnings"] = ["the score is no success", 3]
    figures["policy"]["judge_positive"] = 0.4
    assert warnings(figures)[0] == "the score is no success"
    assert len(warnings(figures)) == 2
    for broken in ("x", 3, None):
        figures["meta"]["warnings"] = broken
        assert len(warnings(figures)) == 1


def frontier_point(kl: float, beyond: bool, low: float, high: float) -> dict:
    above = {"mean": (low + high) / 2, "ci95": [low, high], "beyond": beyond}
    return {"kl_mean": kl, "score_above_best_of_n": above, "judge_above_best_of_n": above}


def test_where_ppo_lies_beside_best_of_n_is_said() -> None:
    points = [
        frontier_point(0.2, False, 0.01, 0.05),
        frontier_point(0.5, False, -0.02, 0.03),
        frontier_point(0.9, False, 0.02, 0.04),
        frontier_point(1.4, False, -0.09, -0.01),
        frontier_point(6.0, True, -0.1, -0.05),
        frontier_point(7.0, True, 0.1, 0.2),
    ]
    assert on_or_above(points, "score", 32) == (
        "PPO's score beside best-of-n's at equal KL, by paired 95% intervals: above it with 2 of 6 policies (0.2 to "
        "0.9 nats), level with it with 1 of 6 policies (0.5 to 0.5 nats), below it with 2 of 6 policies (1.4 to 6.0 "
        "nats); 1 went beyond the KL of best-of-32, where there is nothing to compare them with."
    )
    assert "below it with 1 of 6" in on_or_above(points, "judge", 32)  # beyond best-of-32 the judge may fall again
    assert "2 went beyond" in on_or_above(points, "judge", 32)
    assert on_or_above(points[-1:], "score", 32).startswith("PPO's score cannot be compared")


@pytest.mark.parametrize(
    "point", [{}, {"n": 1}, {"kl_coef": "x", "kl_mean": 1.0, "score_ci95": [None, 1]}, {"n": None}]
)
def test_a_frontier_with_holes_is_drawn_without_them(directory: Path, tmp_path: Path, point: dict) -> None:
    shutil.copytree(directory, tmp_path / "run")
    whole = {"score_mean": 0.5, "score_ci95": [0.4, 0.6], "judge_positive": 0.7, "judge_ci95": [0.6, 0.8], "kl_mean": 1}
    write_object(
        tmp_path / "run/frontier.json", {"best_of_n": [{"n": 4} | whole, point], "ppo": [point], "said": ["<"]}
    )
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<td>best of 4</td>" in page
    assert "trained. &lt;" in page
    Tags(page)


def test_running_mean_makes_nothing_up_at_the_ends() -> None:
    mean = running_mean(np.array([3.0, 0.0, 6.0, 9.0]), 1)
    assert mean.tolist() == [1.5, 3.0, 5.0, 7.5]


def test_wilson_against_a_published_interval() -> None:
    low, high = wilson(np.array([81 / 263, 0.0]), np.array([263, 20]))  # Newcombe 1998, table I
    assert low.round(4).tolist() == [0.2553, 0.0]
    assert high.round(4).tolist() == [0.3662, 0.1611]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.44, "0.4 s"), (42, "42 s"), (185, "3 min 05 s"), (7830, "2 h 10 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
