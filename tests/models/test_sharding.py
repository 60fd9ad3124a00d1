"""Models that are divided among processes give what they give as a whole."""

import os
import subprocess

from tests import ranks


def test_a_sharded_model_of_every_family_learns_and_generates_as_the_whole_one(tmp_path):
    done = subprocess.run(
        [*ranks.command(2), "-m", "tests.sharding_job", str(tmp_path)],
        cwd=ranks.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.count("all as whole") == 2, done.stderr[-4000:]
