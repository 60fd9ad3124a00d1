import json

import pytest

from benchmarks import ours
from benchmarks.contender import start
from benchmarks.workload import saved_models


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory):
    """A folder with the random models of the tiny workload."""
    folder = tmp_path_factory.mktemp("work")
    saved_models(start("", ["--size", "tiny"])[1], folder)
    return folder


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "plaudit, float32"),
        (["--engine", "plain"], "plaudit, plain engine, float32"),
        (["--dtype", "bfloat16"], "plaudit, bfloat16"),
        (["--train-layers", "1"], "plaudit, top 1 layers, float32"),
        (["--lora", "2"], "plaudit, LoRA of rank 2, float32"),
    ],
)
def test_an_update_is_timed_and_recorded(work_folder, capsys, flags, name):
    shared = ["--size", "tiny", "--device", "cpu", "--work", str(work_folder)]
    ours.main([*shared, "--updates", "2", "--prompts", "6", "--epochs", "1", *flags])
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert record["name"] == name
    assert len(record["seconds"]) == 2
    assert record["settings"]["optimizer_steps"] == 2  # of four and two responses
    assert record["tokens"] == record["settings"]["response_tokens"]
    assert all(record[phase] > 0 for phase in ("generation", "scoring", "training"))
    assert not (work_folder / "ours").exists()
