"""Memory: what is free, what this process holds, and the most that it has held."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them


def free(device: torch.device) -> int | None:
    """Bytes that could be had now on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # elsewhere: all there is
    except (AttributeError, OSError, ValueError):
        return None


def held(device: torch.device) -> int:
    """Bytes that this process holds on `device` now, libraries included; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def give_back() -> None:
    """Let the C library return to the system what was freed; where it is not glibc, it does so as it sees fit."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_freed() -> None:
    """Let glibc keep what this process frees for what it allocates next, blocks of 32 MB and more excepted.

    A step frees as much as the next one allocates. Memory that went to the system in between comes back a page fault
    for every 4 KiB: 20,000 to 40,000 of them in a step at GPT-2's size, a tenth of its time.
    """
    set_option = _of_glibc("mallopt")
    if set_option is not None:
        set_option(_M_TRIM_THRESHOLD, 2**30)
        set_option(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes


def _of_glibc(name: str) -> Any:
    """A function of the C library's own; None where it is not glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def peak(device: torch.device) -> int | None:
    """The most bytes that this process has held on `device`, libraries included; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
