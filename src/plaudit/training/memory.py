"""Memory: the bytes that are free, and the current and peak use of this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from plaudit.training import dist

_CGROUP = Path("/sys/fs/cgroup")


def free(device: torch.device) -> int | None:
    """Bytes that are available now on `device`; None if the system does not report them.

    On a CPU the processes of a job on this host have equal shares.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    processes = dist.on_this_host()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return min([available // processes, *_limits(processes)])
    try:  # systems other than Linux: total memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // processes
    except (AttributeError, OSError, ValueError):
        return None


def _limits(processes: int) -> Iterator[int]:
    """Bytes that this process may still take: its share of the container's limit, and the limit of its address space.

    `processes` is how many share the container.
    """
    with suppress(OSError, ValueError, KeyError):  # cgroup v2; without a limit memory.max is "max"
        limit, used = (int((_CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = dict(line.split() for line in lines)["inactive_file"]  # given back when memory is needed
        yield max(0, limit - used + int(cache)) // processes
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            yield max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))


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
    with suppress(OSError, IndexError, ValueError):  # the system's own record may be that of the program that began it
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
