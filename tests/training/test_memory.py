import subprocess
import sys

import numpy as np
import pytest
import torch

from plaudit.training import memory

CPU = torch.device("cpu")


_WRITTEN = """
import torch
from plaudit.training import memory
device = torch.device("cpu")
before = memory.held(device)
some = torch.ones(2**26)
during = memory.held(device)
del some
print(before, during, memory.held(device), memory.peak(device))
"""


def test_memory_that_is_written_to_is_held():
    """In a process of its own: this one may have as much memory to use again from an earlier test."""
    if not memory.held(CPU):
        pytest.skip("the system does not report it")
    done = subprocess.run([sys.executable, "-c", _WRITTEN], capture_output=True, text=True, check=True)
    before, during, after, peak = map(int, done.stdout.split())
    assert 200 * 2**20 < during - before < 400 * 2**20  # of 256 MiB
    assert after - before < 50 * 2**20
    assert peak >= before + 200 * 2**20


def test_free_memory_is_less_than_all_memory():
    free = memory.free(CPU)
    assert free is None or 0 < free < 2**45


def test_a_system_that_does_not_say_is_no_error(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert memory.held(CPU) == 0
    monkeypatch.setattr("os.sysconf", missing)
    assert memory.free(CPU) is None


@pytest.mark.parametrize(("limit", "used", "cache", "free"), [(2**20, 2**19, 0, 2**19), (2**20, 2**20, 2**18, 2**18)])
def test_a_container_s_limit_counts(tmp_path, monkeypatch, limit, used, cache, free):
    for name, text in (("max", limit), ("current", used), ("stat", f"anon 1\ninactive_file {cache}")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free(CPU) == free
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free(CPU) > 2**20


def test_the_peak_is_that_of_this_process_and_not_of_the_one_that_began_it():
    """On Linux, getrusage gives a child the peak of its parent."""
    held = np.ones(2**27)  # a gigabyte
    script = "import torch; from plaudit.training.memory import peak; print(peak(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes


def test_the_processes_of_a_host_share_its_memory(tmp_path, monkeypatch):
    alone = memory.free(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    if alone is not None:
        assert memory.free(CPU) < alone / 2
    for name, text in (("max", 2**20), ("current", 2**19), ("stat", "anon 1\ninactive_file 0")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free(CPU) == 2**19 / 4
