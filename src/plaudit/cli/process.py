"""Settings of the process, which belongs to the command line; the library changes none."""

import ctypes
from contextlib import suppress

# Options of glibc's mallopt: allocations that have a mapping of their own, and when the end of the heap is given back.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for its next allocation; without effect where glibc is missing.

    Gradients and activations are freed and allocated again in every step. glibc gives large ones back to the system,
    which clears each page anew when it is touched: for GPT-2 50,000 pages a step, a fifth of the time of SFT.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # other libraries have a mallopt with other options
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
