import subprocess
import sys

import pytest

_KEPT = """
import torch
from plaudit.training import memory
device = torch.device("cpu")
if {keep}:
    memory.keep_freed()
before = memory.held(device)
some = [torch.ones(6 * 2**20) for _ in range(6)]
del some
print(memory.held(device) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is about glibc")
def test_what_a_step_frees_is_there_for_the_next():
    kept = {
        keep: int(
            subprocess.run([sys.executable, "-c", _KEPT.format(keep=keep)], capture_output=True, check=True).stdout
        )
        for keep in (False, True)
    }
    assert kept[False] < 30e6 < 140e6 < kept[True]  # of 151 MB
