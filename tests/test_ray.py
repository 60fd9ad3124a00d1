"""examples/cluster/ray_train.py under Ray itself: its two workers make what torchrun's two processes make."""

import json
import os
import subprocess
import sys

import pytest
import tomli_w

from plaudit.config import default_settings
from tests import ranks
from tests.disturbed import SMALL, Job

pytest.importorskip("ray", reason="not a dependency, and CI does not install it: pip install 'ray[train]' for this one")
SCRIPT = ranks.ROOT / "examples" / "cluster" / "ray_train.py"
STAGES = ("sft", "reward_model", "ppo")


def settings_of(job):
    """The settings of the job by tables, as a TOML file has them."""
    tables = {"model": str(job.model), "evaluation": {"judge": "none"}}
    known = default_settings()
    for flag, value in SMALL.items():
        name = flag.replace("-", "_")
        assert name in known
        section, _, last = name.rpartition(".")
        (tables.setdefault(section, {}) if section else tables)[last] = value
    for stage in ("sft", "reward_model"):
        tables.setdefault(stage, {})["epochs"] = 1
    return tables


def run(words, folder):
    """Run a command to its end; nothing may go wrong."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def test_two_workers_make_what_torchrun_makes_byte_for_byte(tmp_path):
    job = Job(tmp_path)
    config = tmp_path / "job.toml"
    config.write_text(tomli_w.dumps(settings_of(job)), encoding="utf-8")
    shared = ["--data", str(job.data), "--config", str(config)]
    run([*ranks.command(2), "-m", "plaudit", "run", *shared, "--out", str(tmp_path / "torchrun")], tmp_path)
    own = ["--workers", "2", "--storage", str(tmp_path / "storage")]
    run([sys.executable, str(SCRIPT), *own, *shared, "--out", str(tmp_path / "ray")], tmp_path)
    assert json.loads((tmp_path / "ray/ppo/inputs.json").read_text())["made_with"]["processes"] == 2
    assert job.differing("torchrun", "ray") == []
    found = {f"{stage}/{name}": [tmp_path / out / stage / name for out in ("torchrun", "ray")]
             for stage in STAGES for name in ranks.FILES}  # fmt: skip
    there = {name: files for name, files in found.items() if files[0].exists() or files[1].exists()}
    assert {f"{stage}/{name}" for stage in STAGES for name in ("metrics.jsonl", "model.safetensors")} <= {*there}
    assert [name for name, (one, other) in there.items() if ranks.content(one) != ranks.content(other)] == []
