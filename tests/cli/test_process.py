"""Settings of the process that the command line makes."""

import platform
import subprocess
import sys

import pytest

from plaudit.cli import process

_FREED = """
import resource
import sys
import torch
from plaudit.cli import process
if sys.argv[1] == "keep":
    process.keep_freed_memory()
for step in range(8):
    some = [torch.ones(2**20) for _ in range(16)] + [torch.ones(2**24)]
    del some
    if step == 3:  # where the heap has grown as far as it must
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="freed memory is kept by glibc only")
def test_freed_memory_is_used_again_without_asking_the_system():
    def faults(word):
        done = subprocess.run([sys.executable, "-c", _FREED, word], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 4 * 64 * 2**20 // 4096  # of the largest tensor, in four steps
    assert faults("keep") < pages / 50
    assert faults("as it is") > pages / 2


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    process.keep_freed_memory()
