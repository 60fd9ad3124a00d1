"""The example of the Python API, as it is printed in the README, at small size."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import plaudit
from plaudit.training.run import Run

PATH = Path(__file__).parent.parent / "examples" / "research.py"


def test_the_script_of_a_researcher_has_at_most_fifteen_lines_and_runs(tmp_path, monkeypatch, tiny_config, capsys):
    code = PATH.read_text(encoding="utf-8").partition('"""\n')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    open_run, opened = plaudit.open_run, []
    small = {"sft.epochs": 1, "sft.lr": 1e-2, "ppo.iterations": 2, "ppo.batch_size": 8, "ppo.minibatch_size": 8,
             "ppo.max_new_tokens": 8, "evaluation.prompts": 4, "model": tiny_config.model, "device": "cpu"}  # fmt: skip

    def smaller(path, data, settings):
        assert path == "runs/research"
        tracked = {} if find_spec("tensorboard") else {"track": ()}
        opened.append(open_run(tmp_path / "run", data, {**settings, **small, **tracked}))
        return opened[0]

    monkeypatch.setattr(plaudit, "open_run", smaller, raising=False)
    runpy.run_path(str(PATH))
    run: Run = opened[0]
    assert all(run.complete(stage) for stage in ("sft", "ppo", "evaluation"))
    assert not run.complete("reward_model")
    assert run.summary("ppo")["reward"] == "kindness"
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].count(" became ") == 1
    assert sum(line.startswith("ppo ") for line in lines) == 2
    if find_spec("tensorboard"):
        assert any((run.path / "tensorboard" / "ppo").iterdir())
