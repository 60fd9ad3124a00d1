import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from plaudit import __version__, cli, pipeline
from plaudit.cli import plan as plans
from plaudit.cli import sharing
from plaudit.cli.plan import Plan
from plaudit.config import Config, build, read_toml, to_toml
from plaudit.errors import DataError, RunError
from plaudit.training import stopping
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run

FIGURES = {
    "score_mean": 0.5, "score_ci95": [0.4, 0.6], "judge_positive": 0.75, "kl_mean": 4.0, "perplexity_ref": 20.0,
    "distinct_2": 0.8, "length_mean": 20.0, "eos_rate": 0.9, "duplicate_rate": 0.0,
}  # fmt: skip
EVALUATION = {"sft": FIGURES, "policy": FIGURES, "meta": {"prompts": 12, "seed": 1, "wall_seconds": {"sft": 3.0}}}


class Pipeline:
    """Stands in for the pipeline: records what it is asked for, and leaves the files that the command line reads."""

    def __init__(self) -> None:
        self.config = Config()
        self.stages: tuple[str, ...] = ()
        self.calls = 0
        self.fails: BaseException | None = None

    def steps(self, run, stages):
        self.config, self.calls = run.config, self.calls + 1
        self.stages += stages
        for stage in stages:
            yield StepReport(stage, 1, 1, {"loss": 1.5}, {"seconds": 0.1, "tokens_per_second": 10.0})
            if self.fails:
                raise self.fails
            if stage == "evaluation":
                (run.path / "evaluation.json").write_text(json.dumps(EVALUATION))
                (run.path / "report.html").write_text("<html>")
            else:
                run.checkpoints(stage)  # leaves the stage's inputs
                run.finish(stage, {"perplexity_before": 55.0, "perplexity": 21.0})


@pytest.fixture
def stages(monkeypatch, tmp_path) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr(pipeline, "steps", fake.steps)
    data = SimpleNamespace(fingerprint="of the data", train=SimpleNamespace(judged=True))
    for name in ("data", "judged"):
        monkeypatch.setattr(Run, name, data)
    plan = Plan(4_240_896, {"train": 6806, "evaluation": 885}, "cpu", "float32", {"sft": 1e12})
    monkeypatch.setattr(pipeline, "check", lambda config, path, stages: [])
    monkeypatch.setattr(plans, "plan", lambda config, path, stages: plan)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return fake


def printed(capsys, *argv: str, code: int = 0) -> tuple[str, str]:
    assert cli.main(list(argv)) == code
    return capsys.readouterr()


def saved(directory: Path, *layers: dict) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(to_toml(build(*layers), {}))


def test_run_does_every_stage_and_shows_the_result(stages, capsys):
    out, err = printed(capsys, "run")
    assert stages.stages == ("sft", "reward_model", "ppo", "evaluation")
    assert dataclasses.replace(stages.config, dtype="auto") == Config()  # a run keeps the format that auto came to
    assert "sft: perplexity 55.0 -> 21.0 on held-out texts [" in err
    assert "12 held-out prompts, seed 1" in out
    assert "runs/default/report.html" in out
    assert "plaudit sample runs/default " in out
    assert "\x1b" not in out + err
    first, second, third, *_ = err.splitlines()
    assert first == "plaudit: movie-gpt2 on movie-reviews; device auto, dtype auto; run directory runs/default"
    assert re.fullmatch(
        r"4.2M parameters; texts: 6,806 train, 885 evaluation; cpu, float32; expected time .* s", second
    )
    assert third == "stage 1 of 4: sft"
    assert Path("runs/default/config.toml").exists()


def test_run_takes_flags_in_either_spelling(stages, capsys):
    printed(capsys, "run", "--ppo.kl-coef", "0.1", "--ppo.max_new_tokens=20", "--seed", "5", "--out", "here")
    assert (stages.config.ppo.kl_coef, stages.config.ppo.max_new_tokens, stages.config.seed) == (0.1, 20, 5)
    assert Path("here/config.toml").exists()


@pytest.mark.parametrize(
    ("command", "stage", "following"),
    [
        ("sft", "sft", "plaudit reward-model --out"),
        ("reward-model", "reward_model", "plaudit ppo --out"),
        ("ppo", "ppo", "plaudit eval"),
        ("reinforce", "reinforce", "plaudit eval"),
    ],
)
def test_a_stage_command_does_its_stage_and_names_the_next(stages, capsys, command, stage, following):
    out, err = printed(capsys, command, "--lr", "0.5", "--out", "my run")
    assert stages.stages == (stage,)
    assert getattr(stages.config, stage).lr == 0.5
    assert f"{stage.replace('_', ' ')}: " in err
    assert "stage 1 of" not in err
    assert out == f"next: {following} 'my run'\n"


def test_each_layer_of_settings_beats_the_one_below(stages, capsys):
    saved(Path("out"), {"sft.lr": 0.3, "prompt_max": 7, "ppo.lr": 0.3, "seed": 3})
    Path("mine.toml").write_text("seed = 4\n[ppo]\nlr = 0.4\n")
    argv = ("--out", "out", "--resume", "--config", "mine.toml", "--seed", "5")
    printed(capsys, "run", "--preset", "gpt2-sst2", *argv)
    with_preset = stages.config
    assert (with_preset.sft.lr, with_preset.prompt_max, with_preset.ppo.lr, with_preset.seed) == (0.3, 7, 0.4, 5)


def test_a_preset_beats_the_defaults_and_loses_to_a_file(stages, capsys, monkeypatch):
    for asked in ("loading.fingerprint", "hub.commit"):  # the model is on the hub
        monkeypatch.setattr(f"plaudit.models.{asked}", lambda name: name)
    Path("mine.toml").write_text("prompt_max = 7\n")
    printed(capsys, "run", "--preset", "gpt2-sst2", "--config", "mine.toml", "--data", "movie-reviews")
    assert (stages.config.model, stages.config.prompt_max) == ("openai-community/gpt2", 7)


def test_stage_commands_keep_the_run_s_settings_and_a_fresh_run_does_not(stages, capsys):
    saved(Path("out"), {"seed": 3, "ppo.kl_coef": 0.3})
    printed(capsys, "ppo", "--out", "out")
    assert (stages.config.seed, stages.config.ppo.kl_coef) == (3, 0.3)
    printed(capsys, "run", "--out", "out", "--overwrite")
    assert dataclasses.replace(stages.config, dtype="auto") == Config()


def test_run_refuses_what_is_in_the_way_and_resume_goes_on(stages, capsys):
    printed(capsys, "sft")
    _, err = printed(capsys, "run", code=1)
    assert err.splitlines()[-1].startswith("plaudit: error: runs/default: already holds sft; use --resume")
    out, err = printed(capsys, "run", "--resume")
    assert "sft: perplexity 55.0 -> 21.0 on held-out texts [was complete]" in err
    assert "What next?" in out


def test_eval_shows_figures_and_makes_only_missing_or_other_ones(stages, capsys):
    printed(capsys, "run")
    out, err = printed(capsys, "eval", "runs/default")
    assert stages.calls == 4  # the figures were there
    assert "12 held-out prompts" in out
    assert err == ""
    printed(capsys, "eval", "runs/default", "--prompts", "64")
    assert (stages.calls, stages.stages[-1], stages.config.evaluation.prompts) == (5, "evaluation", 64)
    assert read_toml(Path("runs/default/config.toml"))["evaluation.prompts"] == 64
    printed(capsys, "eval", "runs/default", "--overwrite")
    assert stages.calls == 6
    Path("runs/default/evaluation.json").unlink()
    printed(capsys, "eval", "runs/default")
    assert stages.calls == 7


def test_eval_with_a_setting_of_the_trained_models_changed_is_refused(stages, capsys):
    printed(capsys, "run")
    _, err = printed(capsys, "eval", "runs/default", "--seed", "9", code=1)
    assert "its sft was made with seed = 1, not 9" in err


def test_eval_by_another_reward_stands_beside_the_evaluation(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (tmp_path / "other.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    before = {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    out, _ = printed(capsys, "eval", str(run), "--reward", f"{tmp_path}/other.py:length")
    assert "Scored by the reward other.py:length; the policy was trained for another" in out
    assert out.index("held-out prompts") < out.index("Scored by")  # below the run's own evaluation
    found = json.loads((run / "other_rewards.json").read_text())["other.py:length"]
    lines = [json.loads(line) for line in (run / "responses.jsonl").read_text().splitlines()]
    for side in ("sft", "policy"):  # the same responses
        assert found[side]["score_mean"] == pytest.approx(sum(len(line[side]) for line in lines) / len(lines))
    assert (found["meta"]["reward"], found["meta"]["trained_for"]) == ("other.py:length", "reward model")
    after = {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {Path("other_rewards.json"), Path("report.html")}
    assert "Scored by other rewards" in after[Path("report.html")].decode()

    out, _ = printed(capsys, "eval", str(run), "--reward", f"{tmp_path}/other.py:length", "--json")
    assert json.loads(out)["other_reward"] == found
    out, _ = printed(capsys, "eval", str(run), "--reward", "model")  # for which it was trained
    assert "Scored by" not in out
    Run.existing(run).branch(tmp_path / "again", Run.existing(run).config, ("sft",))
    _, err = printed(capsys, "eval", str(tmp_path / "again"), "--reward", f"{tmp_path}/other.py:length", code=1)
    assert "no finished policy here" in err


def test_eval_json_is_alone_on_stdout(stages, capsys):
    printed(capsys, "run")
    out, err = printed(capsys, "eval", "runs/default", "--overwrite", "--json")
    assert json.loads(out) == EVALUATION
    assert "evaluation: " in err


@pytest.mark.parametrize("argv", [("eval", "no run"), ("frontier", "no run"), ("sample", "no run", "the film is")])
def test_a_run_that_is_not_there_is_named_with_the_command_that_makes_one(stages, capsys, argv):
    _, err = printed(capsys, *argv, code=1)
    assert err == (
        "plaudit: error: no run: no run here (config.toml is missing); make one with plaudit run --out 'no run'\n"
    )


def test_sample_asks_for_continuations_and_shows_them(stages, capsys, monkeypatch):
    from plaudit.evaluation import evaluate as room

    asked = []

    def fake(*arguments):
        asked.append(arguments)
        return [{"sft": "dull .", "sft_score": -0.5, "policy": "lovely .", "policy_score": 0.75}] * arguments[2]

    monkeypatch.setattr(room, "sample", fake)
    saved(Path("out"))
    out, _ = printed(capsys, "sample", "out", "the film is")
    printed(capsys, "sample", "out", "the film is", "-n", "2", "--seed", "8", "--max_new_tokens", "16")
    assert asked == [(Path("out"), "the film is", 4, 1, None), (Path("out"), "the film is", 2, 8, 16)]
    assert out.count("-0.50 dull .") == out.count("+0.75 lovely .") == 4


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("run", "--ppo.kl-coeff", "1"), "unknown flag '--ppo.kl-coeff' (did you mean '--ppo.kl-coef'?)"),
        (("frontier", "runs", "--kl-coefs", "0.1,-1"), "ppo.kl_coef = -1.0: must be at least 0"),
        (("frontier", "runs", "--kl-coefs", "0.1,x"), "ppo.kl_coef = 'x': must be a number at least 0"),
        (("ppo", "--lr", "7"), "ppo.lr = 7.0: must be from 0 to 1"),
        (("ppo", "--lr", "fast"), "ppo.lr = 'fast': must be a number from 0 to 1"),
        (("run", "--prompt-min", "9"), "prompt_min = 9 is above prompt_max = 8"),
        (("run", "--config", "none.toml"), "none.toml: no such settings file"),
        (("run", "--preset", "tiny"), "no preset 'tiny'; the presets are: "),
    ],
)
def test_a_wrong_flag_or_setting_is_one_line_and_exit_2(stages, capsys, argv, line):
    out, err = printed(capsys, *argv, code=2)
    assert err.startswith(f"plaudit: error: {line}")
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "error", [DataError("films.csv: no column\nnamed text"), RunError("films.csv: no column named text")]
)
def test_what_cannot_be_done_is_one_line_and_exit_1(stages, capsys, error):
    stages.fails = error
    _, err = printed(capsys, "sft", code=1)
    assert err.splitlines()[-1] == "plaudit: error: films.csv: no column named text"


@pytest.mark.parametrize(
    ("argv", "again"),
    [
        (("run",), "plaudit run --resume"),
        (("run", "--seed", "3", "--overwrite", "--out", "my run"), "plaudit run --seed 3 --out 'my run' --resume"),
        (("sft", "--overwrite"), "plaudit sft --resume"),
        (("seeds", "--n", "2"), "plaudit seeds --n 2 --resume"),
    ],
)
def test_ctrl_c_shows_how_to_continue(stages, capsys, argv, again):
    stages.fails = KeyboardInterrupt()
    _, err = printed(capsys, *argv, code=130)
    assert err.splitlines()[-1] == f"plaudit: stopped; continue with: {again}"


@pytest.mark.parametrize(
    ("argv", "asked", "again"),
    [
        ((), (None, 32, False), ""),
        (("--kl-coefs", "--draws", "16"), ([], 16, False), " --kl-coefs --draws 16"),
        (("--kl_coefs", "0.1,3e-1", "--overwrite"), ([0.1, 0.3], 32, True), " --kl_coefs 0.1,3e-1"),
    ],
)
def test_frontier_is_asked_for_and_ctrl_c_shows_how_to_continue(stages, capsys, monkeypatch, argv, asked, again):
    from plaudit.evaluation import frontier as room

    def stopped(run, kl_coefs, draws, *, overwrite):
        assert (run.path, (kl_coefs, draws, overwrite)) == (Path("my run"), asked)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "frontier", stopped)
    saved(Path("my run"))
    _, err = printed(capsys, "frontier", "my run", *argv, code=130)
    assert err == f"plaudit: stopped; continue with: plaudit frontier 'my run'{again}\n"


@pytest.mark.parametrize(("lab", "first"), [(object(), []), (None, ["first: pip install 'plaudit[notebooks]'"])])
def test_notebooks_are_copied_and_the_next_step_is_named(stages, capsys, monkeypatch, lab, first):
    monkeypatch.setattr(sharing.importlib.util, "find_spec", lambda name: lab)
    out, err = printed(capsys, "notebooks", "my lessons")
    copied, *rest = out.splitlines()
    assert copied.startswith("my lessons: 1-SFT.ipynb")
    assert rest == [*first, "next: jupyter lab 'my lessons/1-SFT.ipynb'"]
    assert err == ""
    _, err = printed(capsys, "notebooks", "my lessons", code=1)
    assert "1-SFT.ipynb: already exists" in err
    printed(capsys, "notebooks", "my lessons", "--overwrite")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_tells_the_signal(stages, capsys, number):
    stages.fails = stopping.Stopped(number)
    printed(capsys, "sft", code=128 + number)


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b.json"),
            "a/b.json: No space left on device; free some disk",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; continue"),
        (MemoryError(), "out of memory; lower microbatch_size or batch_size"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "out of memory; lower",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left"),
            "a file of tensors cannot be read or written",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_line_with_the_way_on(stages, capsys, failure, line):
    stages.fails = failure
    _, err = printed(capsys, "sft", code=1)
    last = err.splitlines()[-1]
    assert last.startswith(f"plaudit: error: {line}")
    assert last.endswith("; continue with: plaudit sft --resume")


def test_a_bug_is_one_line_and_a_file_with_the_traceback(stages, capsys):
    stages.fails = ZeroDivisionError("division\nby zero")
    _, err = printed(capsys, "sft", code=1)
    found = re.search(r"error: unexpected ZeroDivisionError: division by zero; please report it with (\S+);", err)
    traceback = Path(found[1])
    assert "Traceback (most recent call last)" in traceback.read_text()
    traceback.unlink()


@pytest.mark.parametrize("words", [("run",), ("run", "--overwrite"), ("sft", "--resume", "--seed", "3")])
def test_before_a_run_directory_is_open_the_same_command_is_the_way_on(stages, capsys, monkeypatch, words):
    from plaudit.cli import progress

    def stopped(settings, out):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "header", stopped)
    saved(Path("runs/default"))
    _, err = printed(capsys, *words, code=130)
    assert err.splitlines()[-1] == f"plaudit: stopped; continue with: plaudit {' '.join(words)}"


def test_the_header_is_printed_before_torch_is_imported(tmp_path):
    script = (
        "import sys; from plaudit.cli import main, progress\n"
        "def waiting(what): print(sorted({'torch', 'transformers'} & set(sys.modules))); raise KeyboardInterrupt\n"
        "progress.waiting = waiting\n"
        "main(['run', '--model', 'smollm2', '--out', 'here'])"
    )
    done = python("-c", script, cwd=tmp_path)
    assert done.stdout == "[]\n"
    assert done.stderr.startswith("plaudit: smollm2 on movie-reviews; device auto, dtype auto; run directory here\n")


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A package with one more algorithm: a file, and a line of the list."""
    package = tmp_path / "with toy" / "plaudit"
    shutil.copytree(Path(cli.__file__).parent.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (package / "config.py").read_text()
    line = '    "sft": "Supervised fine-tuning on the training texts.",\n'
    assert line in text
    (package / "config.py").write_text(text.replace(line, line + '    "toy": "A method of your own.",\n'))
    (package / "algorithms" / "toy.py").write_text(
        "from dataclasses import dataclass\n\nimport torch\n\nfrom plaudit.settings import setting\n\n\n"
        '@dataclass(frozen=True)\nclass Config:\n    """A method of your own."""\n\n'
        '    beta: float = setting(0.1, "strength of the KL penalty", low=0)\n'
    )
    return package.parent


def test_an_algorithm_is_one_file_and_one_line(toy):
    environment = os.environ | {"PYTHONPATH": str(toy)}
    assert "A method of your own." in python("-m", "plaudit", "--help", env=environment).stdout
    assert "--beta X" in python("-m", "plaudit", "toy", "--help", env=environment).stdout
    script = "from plaudit.config import build; print(build({'toy.beta': '0.2'}).toy.beta)"
    assert python("-c", script, env=environment).stdout == "0.2\n"


def test_stages_are_the_pipeline_s():
    assert cli.RUN_STAGES == pipeline.STAGES


def test_version_and_help(capsys):
    assert printed(capsys, "--version")[0] == f"plaudit {__version__}\n"
    assert printed(capsys, "--help")[0] == printed(capsys, code=0)[0]


def python(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, **options)


def test_help_version_and_a_wrong_flag_import_nothing_heavy():
    script = (
        "import sys; from plaudit.cli import main\n"
        "words = ('--help', 'run --help', '--version', 'run --sede 1', 'run --seed x', 'rnu')\n"
        "assert [main(line.split()) for line in words] == [0, 0, 0, 2, 2, 2]\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    done = python("-c", script)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr.count("\n") == 3


def test_python_m_plaudit_is_plaudit():
    done = python("-m", "plaudit", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"plaudit {__version__}\n", "")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_went_away_is_no_error(tmp_path, more):
    saved(tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "report.html").write_text("<html>")
    script = (
        "import os, sys; from plaudit.cli import main\n"
        "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = python("-c", script, "eval", str(tmp_path), *more)
    assert (done.returncode, done.stderr) == (1, "")
