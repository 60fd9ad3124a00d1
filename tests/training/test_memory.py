import subprocess
import sys

import pytest

_FAULTS = """
import resource
import torch
from plaudit.training import memory
if {keep}:
    memory.keep_freed()
for update in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2**20) for _ in range(40)]  # 160 MB, as a step allocates them
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is about glibc")
def test_what_a_step_frees_is_there_for_the_next():
    faults = {
        keep: int(
            subprocess.run([sys.executable, "-c", _FAULTS.format(keep=keep)], capture_output=True, check=True).stdout
        )
        for keep in (False, True)
    }
    assert faults[False] > 20_000  # of 40,960
    assert faults[True] < 4_000
