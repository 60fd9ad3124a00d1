import dataclasses
import io
import json
import re
import time

import pytest
from rich.console import Console

from plaudit import pipeline
from plaudit.cli import plan as plans
from plaudit.cli import progress
from plaudit.config import ALGORITHMS, in_words
from plaudit.training import dist, preparation, run, stopping
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


@dataclasses.dataclass(frozen=True)
class Run(run.Run):
    """A run directory in which these stages are complete."""

    finished: tuple[str, ...] = ()

    def complete(self, stage):
        return stage in self.finished


def plain_console(width=120) -> Console:
    return Console(file=io.StringIO(), markup=False, highlight=False, width=width)


def lines_of(reports) -> list[str]:
    console = plain_console()
    progress.watch(iter(reports), "sft", console)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    first, *lines = text.splitlines()
    assert first == (
        "sft: opening and checking the model; perplexity of the held-out texts, activations of frozen layers "
        "(may take minutes)"
    )
    return lines


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """follow(work, stages, complete): the lines of a run whose stages do `work[stage]`."""

    def make(work, stages, complete=()):
        monkeypatch.setattr(pipeline, "steps", lambda run, stages: work[stages[0]])
        console = plain_console()
        make.seconds = progress.follow(Run(tmp_path, None, complete), stages, console)
        return console.file.getvalue().splitlines()

    return make


def test_elsewhere_than_on_a_terminal_there_is_a_line_a_tenth():
    lines = lines_of([report("sft", i, 200, loss=3.14159) for i in range(1, 201)])
    assert lines[0] == "sft:  10%  step 20 of 200  loss 3.14  06:00 left"  # 180 steps of 2 s
    assert lines[9] == "sft: 100%  step 200 of 200  loss 3.14  00:00 left"
    assert len(lines) == 10


def test_a_log_is_not_silent_for_more_than_a_minute(monkeypatch):
    clock = iter(range(0, 100_000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines = lines_of([report("sft", i, 1000) for i in range(1, 11)])
    assert 3 <= len(lines) < 10


@pytest.mark.parametrize("seconds", [0.01, 4.0])
def test_what_comes_before_the_first_step_has_a_line_every_ten_seconds_and_no_more(monkeypatch, seconds):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

    def reports():
        for i in range(10):
            clock[0] += seconds
            preparation.announce("reading the texts", (i + 1) / 10)
        yield report("sft", 1, 1)

    shares = ["30%", "60%", "90%"] if seconds > 1 else []
    assert lines_of(reports())[:-1] == [f"sft: reading the texts {share}" for share in shares]
    preparation.announce("reading the texts", 0.5)  # nobody listens


def test_a_stage_of_few_steps_has_no_line_twice():
    lines = lines_of([report("sft", i, 3, loss=1.0) for i in (1, 2, 3)])
    assert [line[:9] for line in lines] == ["sft:  33%", "sft:  66%", "sft: 100%"]


def test_a_resumed_stage_does_not_repeat_earlier_lines():
    lines = lines_of([report("sft", i, 100, loss=1.0) for i in range(56, 101)])
    assert lines[0].startswith("sft:  60%")
    assert len(lines) == 5


def test_a_warning_is_a_line_of_its_own_on_the_step_that_it_came_with():
    reports = [report("ppo", i, 20, score=0.5) for i in range(1, 21)]
    reports[10] = dataclasses.replace(reports[10], warnings=("the [score] is no success",))
    lines = lines_of(reports)
    assert lines[4].startswith("ppo:  50%  step 10")
    assert lines[5] == "ppo: WARNING: the [score] is no success"
    assert lines[6].startswith("ppo:  60%  step 12")


def test_a_warning_that_was_said_before_the_stages_is_not_repeated(capsys):
    progress.warn("sft: a biased gradient")
    warned = dataclasses.replace(report("sft", 1, 1), warnings=("a biased gradient", "another"))
    assert [line for line in lines_of([warned]) if "WARNING" in line] == ["sft: WARNING: another"]
    assert "WARNING: sft: a biased gradient" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [False, True])
def test_at_most_ten_samples_a_stage_are_shown_in_one_line_that_fits(terminal):
    file = Terminal() if terminal else io.StringIO()
    console = Console(file=file, force_terminal=terminal or None, width=80, markup=False, highlight=False)
    reports = [report("ppo", i, 40, score=0.5) for i in range(1, 41)]
    sample = ("the film\nis", "a [bold] and\x1b[2J moving " + 9 * "very long " + "film")
    progress.watch((dataclasses.replace(r, sample=sample) for r in reports), "ppo", console)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue())
    samples = [line for line in re.split(r"[\r\n]+", text) if line.startswith("  sample:")]
    assert len(samples) == 10
    assert samples[0].startswith("  sample: the film is | a [bold] and\ufffd[2J moving very long")
    assert len(samples[0]) <= 80


def test_time_left_comes_from_recent_steps():
    slow_start = [report("ppo", 1, 30, seconds=1000.0), *(report("ppo", i, 30, seconds=1.0) for i in range(2, 31))]
    lines = lines_of(slow_start)
    assert lines[7].split("  ")[-1] == "00:06 left"  # step 24: the slow one is more than 20 steps ago


@pytest.mark.parametrize(
    ("stage", "figures", "shown"),
    [
        (
            "reward_model",
            {"loss": 0.693147, "accuracy": 0.5, "lr": 0.1},
            "reward model: 100%  step 1 of 1  loss 0.69  accuracy 50.0%",
        ),
        (
            "ppo",
            {"entropy": 3.0, "score": -0.456, "kl": 1e-9, "response_length": 17.25, "eos_rate": 0.98},
            "ppo: 100%  step 1 of 1  score -0.46  kl 0.00  length 17.2  ended 98%",
        ),
        (
            "evaluation",
            {"sft_score": 0.1, "policy_score": float("nan")},
            "evaluation: 100%  step 1 of 1  SFT +0.10  policy -",
        ),
        ("toy", {"margin": 0.5}, "toy: 100%  step 1 of 1  margin 0.50"),  # of an algorithm without a list
    ],
)
def test_each_stage_shows_its_own_figures(stage, figures, shown):
    assert lines_of([report(stage, 1, 1, **figures)]) == [f"{shown}  00:00 left"]


def test_stages_are_numbered_and_a_result_is_read_after_the_stage_has_saved_it(follow, tmp_path):
    def sft():
        yield report("sft", 1, 1, loss=1.0)
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft" / "summary.json").write_text('{"perplexity_before": 55.06, "perplexity": 21.34}')

    def reward_model():
        yield report("reward_model", 1, 1, loss=1.0, accuracy=1.0)
        (tmp_path / "reward_model").mkdir()
        (tmp_path / "reward_model" / "summary.json").write_text('{"accuracy": 0.781, "accuracy_ci95": [0.76, 0.8]}')

    lines = follow({"sft": sft(), "reward_model": reward_model()}, ("sft", "reward_model"))
    assert lines[0] == "stage 1 of 2: sft"
    assert lines[1].startswith("sft: opening and checking the model; perplexity of the held-out texts")
    assert lines[3].startswith("sft: perplexity 55.1 -> 21.3 on held-out texts [")
    assert lines[4] == "stage 2 of 2: reward model"
    assert lines[5] == (
        "reward model: opening and checking the model; tokenising the judgements, activations of frozen layers "
        "(may take minutes)"
    )
    assert lines[7].startswith("reward model: accuracy 78.1% (76.0% to 80.0%) on held-out data [")
    assert list(follow.seconds) == ["sft", "reward_model"]


def test_stages_that_are_complete_are_named_in_their_place(follow, tmp_path):
    (tmp_path / "ppo").mkdir()
    scores = [-0.5, *[0.4] * 10]
    rows = [json.dumps({"step": i, "score": s, "kl": 5.5}) for i, s in enumerate(scores)]
    (tmp_path / "ppo" / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    stages = ("sft", "reward_model", "ppo")
    lines = follow({"reward_model": [report("reward_model", 1, 1, loss=1.0)]}, stages, complete=("sft", "ppo"))
    assert lines[0] == "sft: done [was complete]"
    assert lines[1] == "stage 2 of 3: reward model"
    assert lines[-1] == "ppo: score -0.50 -> +0.40 in training, KL 5.50 nats per response [was complete]"


@pytest.mark.parametrize(
    ("stages", "complete", "again"),
    [
        (("ppo", "evaluation"), ("ppo", "evaluation"), False),
        (("ppo", "evaluation"), ("evaluation",), True),  # of another policy
        (("evaluation",), ("evaluation",), True),  # asked for
    ],
)
def test_the_evaluation_is_made_again_after_a_stage_that_ran_and_alone(follow, stages, complete, again):
    follow({stage: [report(stage, 1, 1)] for stage in stages}, stages, complete)
    assert ("evaluation" in follow.seconds) == again


def test_a_signal_that_reached_another_rank_in_a_last_step_stops_this_one_too(follow, monkeypatch):
    monkeypatch.setattr(dist, "any_rank", lambda own: True)
    with pytest.raises(stopping.Stopped):
        follow({"sft": [report("sft", 1, 1)]}, ("sft", "ppo"))
    follow({"ppo": [report("ppo", 1, 1)]}, ("ppo",))  # the last stage ends as usual


def test_seconds_are_wall_clock_with_loading_and_saving(follow):
    def slow():
        time.sleep(0.05)
        yield report("sft", 1, 1, seconds=0.001)
        time.sleep(0.05)

    follow({"sft": slow()}, ("sft",))
    assert follow.seconds["sft"] >= 0.1


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("stage", "figures", "at_80", "at_120"),
    [
        (
            "ppo",
            {"score": 0.5, "kl": 13.0, "response_length": 20.0, "eos_rate": 0.987},
            "score +0.50  kl 13.0",
            "score +0.50  kl 13.0  length 20.0  ended 99%",
        ),
        ("evaluation", {"sft_score": 0.1, "policy_score": 0.6}, "SFT +0.10", "SFT +0.10  policy +0.60"),
        ("reward_model", {"loss": 0.5, "accuracy": 1.0}, "loss 0.50", "loss 0.50  accuracy 100.0%"),
    ],
)
def test_on_a_terminal_the_bar_has_20_cells_and_the_line_fits(width, stage, figures, at_80, at_120):
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=width, markup=False, highlight=False)
    title = stage.replace("_", " ")
    progress.watch((report(stage, i, 4, seconds=2000.0, **figures) for i in range(1, 3)), title, console)
    frames = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue()))
    bar = next(line for line in frames if " 50% " in line)
    assert len(re.findall("[━╸╺]", bar)) == 20
    assert "00:00, 1:06:40 left" in bar  # two steps of 2000 s
    assert bar.rstrip().endswith(at_80 if width == 80 else at_120)
    assert max(map(len, frames)) <= width
    assert f"{title}: opening " in file.getvalue()
    assert f"{title}: preparing" in file.getvalue()
    assert "\x1b[2K" in file.getvalue()  # the bar is wiped away
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


@pytest.mark.parametrize("stage", [*ALGORITHMS, "evaluation"])
def test_every_stage_says_what_it_does_before_its_first_step(follow, stage):
    first, *_ = follow({stage: [report(stage, 1, 1)]}, (stage,))
    assert re.fullmatch(rf"{in_words(stage)}: opening .*; .* \(may take minutes\)", first)


def test_the_spinner_moves_while_a_model_is_opened():
    def slow():
        time.sleep(0.6)
        yield report("sft", 1, 1)

    file = Terminal()
    progress.watch(slow(), "sft", Console(file=file, force_terminal=True, width=80))
    assert len(set(re.findall("([⠀-⣿])\x1b\\[0m \x1b\\[1msft: preparing", file.getvalue()))) >= 3


def test_an_overdue_stage_promises_nothing():
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=80)
    progress.watch(iter([report("sft", 1, 2, seconds=0.0, loss=1.0)]), "sft", console)
    assert "50%" in file.getvalue()
    assert " left" not in file.getvalue()


def test_the_cursor_comes_back_when_a_stage_fails():
    def failing():
        yield report("ppo", 1, 4)
        raise ValueError("a bug")

    file = Terminal()
    with pytest.raises(ValueError, match="a bug"):
        progress.watch(failing(), "ppo", Console(file=file, force_terminal=True))
    assert "\x1b[?25h" in file.getvalue()


def test_colour_forced_into_a_log_brings_no_bars():
    file = io.StringIO()
    progress.watch(iter([report("sft", 1, 1, loss=1.0)]), "sft", Console(file=file, force_terminal=True))
    assert "━" not in file.getvalue()
    assert "\x1b[?25" not in file.getvalue()


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    progress.watch(iter([report("sft", 1, 1, loss=1.0)]), "sft")
    assert capsys.readouterr() == ("", "")


def test_progress_is_on_stderr(capsys):
    progress.watch(iter([report("sft", 1, 1, loss=1.0)]), "sft")
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err


def test_the_outlook_has_parameters_texts_device_and_the_time_of_what_is_left(tmp_path, capsys):
    class Plan(plans.Plan):
        def seconds(self, stages):
            return 100.0 * len(list(stages))

    plan = Plan(134_515_008, {"train": 6806, "evaluation": 885}, "cuda:0", "bfloat16", {})
    progress.outlook(plan, [Run(tmp_path, None, ("sft",)), Run(tmp_path, None)], ("sft", "ppo"))
    assert capsys.readouterr().err == (
        "135M parameters; texts: 6,806 train, 885 evaluation; cuda:0, bfloat16; expected time 5 min 00 s\n"
    )
    progress.outlook(plan, [Run(tmp_path, None, ("sft", "ppo"))], ("sft", "ppo"))
    assert "expected" not in capsys.readouterr().err
