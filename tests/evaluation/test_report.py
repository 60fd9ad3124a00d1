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
from plaudit.config import POLICIES, build, default_settings, heading, to_toml
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.report import write_report
from plaudit.evaluation.report.figures import running_mean
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
    toml = to_toml(build(default_settings(), settings), {"plaudit": "0.1.0", "torch": "2.9.0", "git": "0a1b2c3"})
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
    """Write a complete, plausible run directory."""
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


def test_page_loads_nothing_and_runs_no_script(page: str) -> None:
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


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert ids
    assert len(ids) == len(set(ids))
    assert {*re.findall(r"url\(#([^)]*)\)", page), *re.findall(r'href="#([^"]*)"', page)} <= set(ids)


def test_figures_take_their_colours_from_the_page(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.S))
    assert drawings.count("<svg") == 12
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", drawings)
    assert "font-family" not in drawings


def test_page_shows_the_figures_of_the_run(page: str) -> None:
    text = Tags(page).text
    assert "movie-gpt2 on movie-reviews · seed 3" in text
    assert "PPO raised the mean score from 0.02 to 0.84 [0.81, 0.86] at 9.1 nats of KL." in text
    assert "calls 88 % of the responses positive, 51 % before" in text
    assert "The responses are 27 tokens long, 23 before." in text
    assert "the reward model gives a response: −1 is certainly negative" in text
    assert "76.3 % [73.7 %, 78.8 %]" in text
    assert "from 92.4 to 41.7" in text
    assert "left out: too long 118" in text
    assert "0.08 score/nat" in text  # a setting that is not its default ...
    assert f"(default: {PPOConfig().kl_coef})" in text  # ... and the default
    assert text.count("(default: ") == 2  # kl_coef and seed
    assert "judge.accuracy_imdb 0.902" in text
    assert "10 min 42 s" in text  # 160.2 + 100 + 360 + 21.5 seconds
    assert "Look closer." not in text
    assert "Not in this run directory" not in text


@pytest.mark.parametrize("stage", POLICIES)
def test_every_algorithm_of_a_policy_has_its_curves(tmp_path: Path, stage: str) -> None:
    make_run(tmp_path, iterations=5, prompts=12)
    (tmp_path / "ppo").rename(tmp_path / stage)
    write_object(tmp_path / "evaluation.json", evaluation() | {stage: evaluation()["policy"]})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    text, name = Tags(page).text, heading(stage)
    assert page.count("<svg") == 12
    assert f"{name} raised the mean score from 0.02 to 0.84" in text
    for words in (
        f"What {name} did",
        f"All other metrics of {name}",
        f"After {name} (policy)",
        "Health of the updates",
    ):
        assert words in text
    assert "Not in this run directory" not in text
    if stage != "ppo":
        assert "What PPO did" not in text


def test_a_run_with_several_policies_draws_each_and_what_it_does_not_know_by_name(tmp_path: Path) -> None:
    make_run(tmp_path, iterations=5, prompts=12)
    lines = [{"step": i, "score": i / 5, "kl": i / 9, "rejected_logprob": -i, "not a name": 1.0} for i in range(1, 6)]
    other = POLICIES[-1]
    write_lines(tmp_path / other / "metrics.jsonl", lines)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    text = Tags(page).text
    assert all(f"What {heading(stage)} did" in text for stage in ("ppo", other))
    assert page.count("<svg") == 12 + 4  # score, KL, score against KL, and the metric that the page has no words for
    assert "rejected logprob" in text
    assert "not a name" not in text
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert missing_files(page) == f"{other}/timing.jsonl, {other}/summary.json."
    assert "PPO raised the mean score" in text  # the first is the policy that the run is about


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
    figures = evaluation()
    figures["meta"] |= {"device": hostile, hostile: {hostile: hostile}, "prompts": hostile, "reward": hostile}
    figures["meta"]["warnings"] = [hostile]
    write_object(directory / "evaluation.json", figures)
    write_object(
        directory / "frontier.json", {"findings": [hostile], "ppo": [{"kl_coef": hostile, "iteration": hostile}]}
    )
    write_object(directory / "other_rewards.json", {hostile: {"sft": {"score_mean": hostile}, "meta": hostile}})
    write_object(directory / "ended.json", {"ppo": {"how": "failed", "reason": hostile, "step": hostile}})
    write_lines(directory / "ppo/timing.jsonl", [{"seconds": hostile, "tokens_per_second": hostile}])
    write_object(directory / "sft/summary.json", {"dropped": {hostile: hostile}, "perplexity": hostile})
    write_object(directory / "reward_model/summary.json", {"calibration": [{"confidence": hostile}], "kind": hostile})
    written = write_report(directory).read_text(encoding="utf-8")
    tags = Tags(written)
    assert not {"script", "img"} & {tag for tag, _ in tags.tags}
    assert written.count(html.escape("</p><script>alert(1)</script>")) > 15
    assert "\x00" not in written
    assert [a for _, a in tags.tags if any(name.startswith("on") for name in a)] == []


def test_long_text_is_cut(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_lines(tmp_path / "samples.jsonl", [{"prompt": "p", "sft": "x" * 10_000, "policy": "y"}] * 100)
    written = write_report(tmp_path).read_text(encoding="utf-8")
    assert len(written) < 120_000  # 10,000 letters a hundred times would be a million
    assert "x" * 1500 + " …" in written


PARTS = ("sft", "reward_model", "ppo", "evaluation.json", "samples.jsonl", "responses.jsonl")


def missing_files(page: str) -> str:
    return re.findall(r"Not in this run directory \(yet\): ([^<]*)<", page)[0]


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_stand_alone(tmp_path: Path, part: str) -> None:
    make_run(tmp_path, iterations=3, prompts=12)
    for other in PARTS:
        if other != part:
            (tmp_path / other).rename(tmp_path / f"gone-{other}")
    named = missing_files(write_report(tmp_path).read_text(encoding="utf-8"))
    expected = [p for p in PARTS if p != part]
    if part == "ppo":  # PPO that began without a reward model has another reward
        expected.remove("reward_model")
    assert [p for p in PARTS if p in named] == expected


def test_some_files_of_the_parts_may_be_missing(tmp_path: Path) -> None:
    make_run(tmp_path, iterations=3, prompts=12)
    for part in ("ppo/metrics.jsonl", "reward_model/summary.json", "evaluation.json"):
        (tmp_path / part).unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert missing_files(page) == "reward_model/summary.json, ppo/metrics.jsonl, evaluation.json."
    assert "Held-out scores, before and after" in page


def test_a_run_with_settings_only(tmp_path: Path) -> None:
    make_config(tmp_path)
    text = Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "PPO has no results yet." in text
    assert "ppo.kl_coef" in text


def test_a_run_in_progress_shows_how_far_it_is(tmp_path: Path) -> None:
    make_config(tmp_path, **{"ppo.iterations": 40})
    lines = [{"step": 1, "score": -0.04, "kl": 0.0}, {"step": 2, "score": 0.31, "kl": 1.26}]
    write_lines(tmp_path / "ppo/metrics.jsonl", lines)
    text = Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    expected = (
        "At iteration 2 of 40 the mean score of the sampled responses is 0.31 at 1.3 nats of KL; at the first it was "
        "−0.04."
    )
    assert expected in text


def test_a_stage_that_failed_says_so(tmp_path: Path) -> None:
    make_config(tmp_path)
    endings = {"ppo": {"how": "failed", "reason": "the loss is not finite", "step": 7}}
    write_object(tmp_path / "ended.json", endings | {"sft": {"how": "stopped", "reason": "SIGINT", "step": 3}})
    text = Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "PPO failed after step 7: the loss is not finite." in text
    assert "SIGINT" not in text


@pytest.mark.parametrize("entry", [None, 3, {}, {"sft": 1}, {"policy": {"score_mean": None}, "meta": []}])
def test_scores_by_other_rewards_are_a_table(tmp_path: Path, entry: object) -> None:
    make_config(tmp_path)
    assert "other rewards" not in Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    sides = {"sft": {"score_mean": 12.0}, "policy": {"score_mean": 10.5}}
    whole = sides | {"meta": {"score_difference_ci95": [-2.25, -0.75]}}
    write_object(tmp_path / "other_rewards.json", {"other.py:length": whole, "damaged": entry})
    text = Tags(write_report(tmp_path).read_text(encoding="utf-8")).text
    table = text.partition("Scored by other rewards")[2]
    assert re.search(r"other\.py:length\s*12\.00\s*10\.50\s*−1\.50 \[−2\.25, −0\.75\]", table)
    assert re.search(r"damaged\s*–\s*–\s*–", table)


def custom_reward_run(directory: Path) -> Path:
    """Write a run trained with a Python function from 0 to 40 as the reward, on data that no judge fits."""
    make_run(directory, iterations=6, prompts=40)
    shutil.rmtree(directory / "reward_model")
    figures = evaluation()
    figures["meta"] |= {"reward": "rewards.py:count_<vowels>", "score_range": None}
    figures["sft"] |= {"score_mean": 10.0, "score_ci95": [9.0, 11.0], "judge_positive": None}
    figures["policy"] |= {"score_mean": 30.0, "score_ci95": [29.0, 31.0], "judge_positive": None}
    write_object(directory / "evaluation.json", figures)
    rows = [
        {"prompt": "p", "sft": "a", "policy": "b", "sft_score": i / 2, "policy_score": 20 + i / 2, "sft_judge": None}
        for i in range(41)
    ]
    for name in ("responses.jsonl", "samples.jsonl"):
        write_lines(directory / name, rows)
    write_lines(directory / "ppo/metrics.jsonl", [{"step": i, "score": 10.0 + i, "kl": i / 2} for i in range(1, 7)])
    return directory


def test_a_run_with_a_custom_reward_has_its_own_scale(tmp_path: Path) -> None:
    page = write_report(custom_reward_run(tmp_path)).read_text(encoding="utf-8")
    text = Tags(page).text
    assert "reward: rewards.py:count_<vowels>" in text
    assert "Mean score that the reward rewards.py:count_<vowels> gives a response; higher is better." in text
    assert "Not in this run directory" not in text  # there is no reward model to miss
    assert "The reward model" not in text
    assert "−1 to 1" not in text
    assert "the judge disagrees" not in text
    assert 'class="before" style="left:25.0%"' in page  # 10 on the scale of the data, 0 to 40
    assert 'class="after" style="left:75.0%"' in page
    histogram = re.findall(r"<svg[^>]*distribution of the scores.*?</svg>", page, flags=re.S)[0]
    assert [tick for tick in ("0", "10", "20", "30", "40") if f">{tick}<" in histogram] == ["0", "10", "20", "30", "40"]


def test_without_a_judge_there_is_a_dash_and_nothing_drawn(tmp_path: Path) -> None:
    directory = custom_reward_run(tmp_path)
    point = {"kl_mean": 1.0, "score_mean": 5.0, "score_ci95": [4.0, 6.0], "judge_positive": None, "judge_ci95": None}
    write_object(directory / "frontier.json", {"best_of_n": [{"n": 4} | point], "ppo": [{"kl_coef": 0.1} | point]})
    page = write_report(directory).read_text(encoding="utf-8")
    tile = re.findall(r"<h3>Judged positive</h3>.*?</section>", page, flags=re.S)[0]
    assert "– → <b>–</b>" in tile
    assert "track" not in tile
    assert "judge:" not in page
    assert "An independent judge calls" not in page.partition('<div class="tiles">')[0]
    assert 'aria-label="mean score against KL' in page
    assert "share judged positive" not in page


def test_before_the_evaluation_ppo_without_a_reward_model_has_a_custom_reward(tmp_path: Path) -> None:
    (custom_reward_run(tmp_path) / "evaluation.json").unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert missing_files(page) == "evaluation.json."
    assert "−1 to 1" not in page
    assert "What the custom reward gives a whole response." in page


def test_a_reward_with_other_bounds_is_drawn_within_them(tmp_path: Path) -> None:
    figures = evaluation()
    figures["meta"] |= {"reward": "tests pass", "score_range": [0, 1]}
    make_config(tmp_path)
    write_object(tmp_path / "evaluation.json", figures)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Mean score that the reward tests pass gives a response, from 0 to 1." in page
    assert 'class="after" style="left:83.7%"' in page


@pytest.mark.parametrize("bounds", [[1, 1], [1, -1], ["0", 1], 7, [0, 1e999]])
def test_a_malformed_score_range_is_none(tmp_path: Path, bounds: object) -> None:
    figures = evaluation()
    figures["meta"]["score_range"] = bounds
    make_config(tmp_path)
    write_object(tmp_path / "evaluation.json", figures)
    assert "−1 to 1" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_broken_files_are_named_and_left_out(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", iterations=3, prompts=12)
    with (directory / "ppo/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sco')
    (directory / "evaluation.json").write_text("[1, 2]")
    text = Tags(write_report(directory).read_text(encoding="utf-8")).text
    assert "Left out because they cannot be read: ppo/metrics.jsonl, evaluation.json." in text
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
        tmp_path / "reward_model/summary.json",
        {
            "accuracy": None,
            "accuracy_ci95": [None, None],
            "calibration": None,
            "accuracy_by_margin": [{"margin": None, "accuracy": 2, "count": 3}, {"accuracy": 0.5, "count": 1e999}],
        },
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


def test_without_settings_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: no such settings file"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    make_config(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([0.77, 0.86], "PPO raised the mean score from 0.02 to 0.84"),
        ([-0.01, 0.86], "PPO did not clearly change the mean score: from 0.02 to 0.84"),
        ([-0.5, -0.1], "PPO lowered the mean score from 0.02 to 0.84"),
    ],
)
def test_verdict_follows_the_interval_of_the_paired_difference(ends: list[float], expected: str) -> None:
    figures = evaluation()
    figures["meta"]["score_difference_ci95"] = ends
    assert verdict(figures, [], 60).startswith(expected)


def test_verdict_without_paired_difference_uses_the_policys_own_interval() -> None:
    figures = evaluation()
    figures["meta"] = {}
    figures["policy"]["score_mean"], figures["policy"]["score_ci95"] = 0.05, [0.0, 0.1]  # 0.021 lies within
    assert verdict(figures, [], 60).startswith("PPO did not clearly change")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("judge_positive", 0.4, "reward hacking"),
        ("distinct_2", 0.47, "become alike"),  # 0.68 * 0.7 = 0.476
        ("duplicate_rate", 0.06, "copies"),
        ("length_mean", 35.0, "length"),  # 23.2 * 1.5 = 34.8
        ("length_mean", 15.0, "length"),  # 23.2 / 1.5 = 15.5
        ("eos_rate", 0.83, "end token"),
    ],
)
def test_each_reason_to_doubt_the_score_gives_a_warning(key: str, value: float, expected: str) -> None:
    figures = evaluation()
    assert warnings(figures) == []
    figures["policy"][key] = value
    assert [expected in w for w in warnings(figures)] == [True]


def test_warnings_of_training_come_first() -> None:
    figures = evaluation()
    figures["meta"]["warnings"] = ["do not trust the score", 3]
    figures["policy"]["judge_positive"] = 0.4
    assert warnings(figures)[0] == "do not trust the score"
    assert len(warnings(figures)) == 2
    for broken in ("x", 3, None):
        figures["meta"]["warnings"] = broken
        assert len(warnings(figures)) == 1


def frontier_point(kl: float, beyond: bool, low: float, high: float) -> dict:
    above = {"mean": (low + high) / 2, "ci95": [low, high], "beyond": beyond}
    return {"kl_mean": kl, "score_above_best_of_n": above, "judge_above_best_of_n": above}


def test_ppo_is_compared_with_best_of_n_at_equal_kl() -> None:
    points = [
        frontier_point(0.2, False, 0.01, 0.05),
        frontier_point(0.5, False, -0.02, 0.03),
        frontier_point(0.9, False, 0.02, 0.04),
        frontier_point(1.4, False, -0.09, -0.01),
        frontier_point(6.0, True, -0.1, -0.05),
        frontier_point(7.0, True, 0.1, 0.2),
    ]
    assert on_or_above(points, "score", 32) == (
        "PPO's score against best-of-n at equal KL, by paired 95% intervals: above it for 2 of 6 policies (0.2 to "
        "0.9 nats), level with it for 1 of 6 policies (0.5 to 0.5 nats), below it for 2 of 6 policies (1.4 to 6.0 "
        "nats); 1 beyond the KL of best-of-32, where there is no comparison."
    )
    assert "below it for 1 of 6" in on_or_above(points, "judge", 32)  # beyond best-of-32 the judge's share may fall
    assert "2 beyond the KL" in on_or_above(points, "judge", 32)
    assert on_or_above(points[-1:], "score", 32).startswith("PPO's score cannot be compared")
    without_judge = [point | {"judge_above_best_of_n": None} for point in points]
    assert "cannot be compared" in on_or_above(without_judge, "judge", 32)


@pytest.mark.parametrize(
    "point", [{}, {"n": 1}, {"kl_coef": "x", "kl_mean": 1.0, "score_ci95": [None, 1]}, {"n": None}]
)
def test_incomplete_points_of_the_frontier_are_not_drawn(tmp_path: Path, point: dict) -> None:
    make_config(tmp_path)
    whole = {"score_mean": 0.5, "score_ci95": [0.4, 0.6], "judge_positive": 0.7, "judge_ci95": [0.6, 0.8], "kl_mean": 1}
    write_object(
        tmp_path / "frontier.json", {"best_of_n": [{"n": 4} | whole, point], "ppo": [point], "findings": ["<"]}
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<td>best of 4</td>" in page
    assert page.count('aria-label="mean score (−1 to 1) against KL') == 1
    assert "nothing is trained. <" in Tags(page).text


def test_running_mean_uses_fewer_neighbours_at_the_ends() -> None:
    assert running_mean(np.array([3.0, 0.0, 6.0, 9.0]), 1).tolist() == [1.5, 3.0, 5.0, 7.5]
    assert running_mean(np.array([3.0, 5.0]), 4).tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.44, "0.4 s"), (42, "42 s"), (185, "3 min 05 s"), (7830, "2 h 10 min")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
