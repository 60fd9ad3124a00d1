import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from plaudit.cli import progress
from plaudit.training.metrics import StepReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


def report(stage: str, step: int, total: int, seconds: float = 2.0, **metrics: float) -> StepReport:
    return StepReport(stage, step, total, metrics, {"seconds": seconds, "tokens_per_second": 100.0})


def lines_of(reports, directory, stages) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, markup=False, highlight=False)
    progress.follow(iter(reports), directory, stages, console)
    assert "\x1b" not in file.getvalue()
    assert "\r" not in file.getvalue()
    return file.getvalue().splitlines()


def test_elsewhere_than_on_a_terminal_there_is_a_line_a_tenth(tmp_path):
    lines = lines_of([report("sft", i, 200, loss=3.14159) for i in range(1, 201)], tmp_path, ("sft",))
    assert lines[0] == "sft:  10%  step 20 of 200  loss 3.14  6 min 00 s left"  # 180 steps of 2 s
    assert lines[9] == "sft: 100%  step 200 of 200  loss 3.14  0.0 s left"
    assert lines[10].startswith("sft: done [")
    assert len(lines) == 11


def test_a_stage_of_few_steps_has_no_line_twice(tmp_path):
    lines = lines_of([report("sft", i, 3, loss=1.0) for i in (1, 2, 3)], tmp_path, ("sft",))
    assert [line[:9] for line in lines[:3]] == ["sft:  33%", "sft:  66%", "sft: 100%"]
    assert len(lines) == 4


def test_a_resumed_stage_does_not_tell_again_what_was_done_before(tmp_path):
    lines = lines_of([report("sft", i, 100, loss=1.0) for i in range(56, 101)], tmp_path, ("sft",))
    assert lines[0].startswith("sft:  60%")
    assert len(lines) == 6


def test_a_warning_is_a_line_of_its_own_on_the_step_that_it_came_with(tmp_path):
    reports = [report("ppo", i, 20, score=0.5) for i in range(1, 21)]
    reports[10] = dataclasses.replace(reports[10], warnings=("the [score] is no success",))
    lines = lines_of(reports, tmp_path, ("ppo",))
    assert lines[4].startswith("ppo:  50%  step 10")
    assert lines[5] == "ppo: WARNING: the [score] is no success"
    assert lines[6].startswith("ppo:  60%  step 12")


def test_time_left_comes_from_recent_steps(tmp_path):
    slow_start = [report("ppo", 1, 30, seconds=1000.0), *(report("ppo", i, 30, seconds=1.0) for i in range(2, 31))]
    lines = lines_of(slow_start, tmp_path, ("ppo",))
    assert lines[7].split("  ")[-1] == "6.0 s left"  # step 24: the slow one is more than 20 steps ago


def test_each_stage_shows_its_own_figures(tmp_path):
    reports = [
        report("reward_model", 1, 1, loss=0.693147, accuracy=0.5, lr=0.1),
        report("ppo", 1, 1, entropy=3.0, score=-0.456, kl=1e-9, response_length=17.25, eos_rate=0.98),
        report("evaluation", 1, 1, sft_score=0.1, policy_score=float("nan")),
    ]
    lines = lines_of(reports, tmp_path, ("reward_model", "ppo", "evaluation"))
    assert lines[0] == "reward: 100%  step 1 of 1  loss 0.69  accuracy 50.0%  0.0 s left"
    assert lines[2] == "ppo: 100%  step 1 of 1  score -0.46  kl 0.00  length 17.2  ended 98%  0.0 s left"
    assert lines[4] == "evaluation: 100%  step 1 of 1  SFT +0.10  policy -  0.0 s left"


def test_a_stage_s_result_is_read_after_the_stage_has_saved_it(tmp_path):
    def stages():
        yield report("sft", 1, 1, loss=1.0)
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft" / "summary.json").write_text('{"perplexity_before": 55.06, "perplexity": 21.34}')
        yield report("reward_model", 1, 1, loss=1.0, accuracy=1.0)
        (tmp_path / "reward_model").mkdir()
        (tmp_path / "reward_model" / "summary.json").write_text('{"accuracy": 0.781, "accuracy_ci95": [0.76, 0.8]}')

    lines = lines_of(stages(), tmp_path, ("sft", "reward_model"))
    assert lines[1].startswith("sft: perplexity 55.1 -> 21.3 on held-out texts [")
    assert lines[3].startswith("reward: accuracy 78.1% (76.0% to 80.0%) on held-out data [")


def test_stages_that_were_complete_are_named_in_their_place(tmp_path):
    (tmp_path / "ppo").mkdir()
    scores = [-0.5, *[0.4] * 10]
    rows = [json.dumps({"step": i, "score": s, "kl": 5.5}) for i, s in enumerate(scores)]
    (tmp_path / "ppo" / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    lines = lines_of([report("reward_model", 1, 1, loss=1.0)], tmp_path, ("sft", "reward_model", "ppo"))
    assert lines[0] == "sft: done [was complete]"
    assert lines[1].startswith("reward: 100%")
    assert lines[3] == "ppo: score -0.50 -> +0.40 in training, KL 5.50 nats per response [was complete]"


def test_seconds_are_wall_clock_from_one_stage_s_last_step_to_the_next_s(tmp_path, monkeypatch):
    ticks = iter([0.0, 5.0, 6.0, 9.0, 11.0])  # start, sft 1, sft 2, reward 1, end
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    reports = [report("sft", 1, 2), report("sft", 2, 2), report("reward_model", 1, 1)]
    seconds = progress.follow(iter(reports), tmp_path, ("sft", "reward_model"), Console(file=io.StringIO()))
    assert seconds == {"sft": 6.0, "reward_model": 5.0}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("stage", "figures", "shown"),
    [
        (
            "ppo",
            {"score": 0.5, "kl": 13.0, "response_length": 20.0, "eos_rate": 0.987},
            "score +0.50  kl 13.0  length 20.0  ended 99%",
        ),
        ("evaluation", {"sft_score": 0.1, "policy_score": 0.6}, "SFT +0.10  policy +0.60"),
        ("reward_model", {"loss": 0.5, "accuracy": 1.0}, "loss 0.50  accuracy 100.0%"),
    ],
)
def test_a_terminal_gets_a_bar_and_keeps_the_result(tmp_path, width, stage, figures, shown):
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=width, markup=False, highlight=False)
    reports = [report(stage, i, 4, seconds=20.0, **figures) for i in range(1, 3)]
    progress.follow(iter(reports), tmp_path, (stage,), console)
    frames = re.sub(r"\x1b\[[\d;?]*m", "", file.getvalue())
    bar = next(line for line in re.split(r"[\r\n]", frames) if " 50% " in line)
    assert "━" in bar
    assert "0:00, 0:40 left" in bar  # two steps of 20 s
    assert shown in bar  # whole, at the usual width too
    assert frames.rindex(f"{stage}: done [") > frames.index("━")
    assert "\x1b[2K" in frames[frames.rindex("━") :]  # the bar is wiped away
    assert "\x1b[?25h" in frames  # the cursor is back


def test_an_overdue_stage_promises_nothing(tmp_path):
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=80)
    progress.follow(iter([report("sft", 1, 2, seconds=0.0, loss=1.0)]), tmp_path, ("sft",), console)
    assert "50%" in file.getvalue()
    assert " left" not in file.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (185, "3:05"), (59.6, "1:00"), (3785, "1:03:05")])
def test_the_clock(seconds, text):
    assert progress._clock(float(seconds)) == text


def test_the_cursor_comes_back_when_a_stage_fails(tmp_path):
    def failing():
        yield report("ppo", 1, 4)
        raise ValueError("a bug")

    file = Terminal()
    with pytest.raises(ValueError, match="a bug"):
        progress.follow(failing(), tmp_path, ("ppo",), Console(file=file, force_terminal=True))
    assert "\x1b[?25h" in file.getvalue()


def test_colour_forced_into_a_log_brings_no_bars(tmp_path):
    file = io.StringIO()
    progress.follow(iter([report("sft", 1, 1, loss=1.0)]), tmp_path, ("sft",), Console(file=file, force_terminal=True))
    assert "━" not in file.getvalue()
    assert "\x1b[?25" not in file.getvalue()


def test_only_the_first_process_speaks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    seconds = progress.follow(iter([report("sft", 1, 1, loss=1.0)]), tmp_path, ("sft",))
    assert list(seconds) == ["sft"]
    assert capsys.readouterr() == ("", "")


def test_progress_is_on_stderr(tmp_path, capsys):
    progress.follow(iter([report("sft", 1, 1, loss=1.0)]), tmp_path, ("sft",))
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
