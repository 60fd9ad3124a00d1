"""Memory: the bytes that are free, and the current and peak use of this process."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch


def free(device: torch.device) -> int | None:
    """Bytes that are available now on `device`; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # systems other than Linux: total memory
    except (AttributeError, OSError, ValueError):
        return None


def held(device: torch.device) -> int:
    """Bytes that this process uses on `device` now, libraries included; 0 if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def peak(device: torch.device) -> int | None:
    """Peak bytes that this process used on `device`, libraries included; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
