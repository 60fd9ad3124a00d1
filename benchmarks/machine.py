"""Measure the peaks of this machine: matrix products and memory copies. `python -m benchmarks.machine`."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

_SECONDS = 1.0  # time for each figure; at least one pass
_SKINNY = (64, 768, 3072)  # GPT-2's widest matrix, applied to the tokens of a small minibatch


def best(action: Callable[[], object], device: torch.device, seconds: float = _SECONDS) -> float:
    """Seconds of the fastest of several passes, which is least disturbed by other programs."""

    def once() -> float:
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()  # the first pass allocates
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(once())
    return min(times)


def matmul(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, seconds: float = _SECONDS) -> float:
    """FLOP/s of a product of (m, k) and (k, n) matrices."""
    m, k, n = shape
    a, b = (torch.randn(s, device=device).to(dtype) for s in ((m, k), (k, n)))
    out = torch.empty(m, n, device=device, dtype=dtype)
    return 2 * m * k * n / best(lambda: torch.matmul(a, b, out=out), device, seconds)


def copy(size: int, device: torch.device, seconds: float = _SECONDS) -> float:
    """Bytes per second of a copy of `size` bytes; each byte counts twice, as read and as written."""
    a = torch.ones(size // 4, device=device)
    b = torch.empty_like(a)
    return 2 * size / best(lambda: b.copy_(a), device, seconds)


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(device: torch.device, side: int = 2048, copied: int = 1 << 28, seconds: float = _SECONDS) -> dict:
    """Names and peaks of the machine.

    Args:
        side: rows and columns of the square matrices.
        copied: size of the copy in bytes; must be larger than the caches.
        seconds: time for each figure.
    """
    shapes = {"square": (side, side, side), "skinny": _SKINNY}
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {
        "cpu": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "flops": {
            name: {kind: matmul(shape, dtype, device, seconds) for kind, dtype in dtypes.items()}
            for name, shape in shapes.items()
        },
        "copy": copy(copied, device, seconds),
    }


def main() -> None:
    """Print the peaks as one JSON line."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    flags.add_argument("--seconds", type=float, default=_SECONDS, help="time for each figure, in seconds")
    options = flags.parse_args()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if options.device == "auto" else options.device)
    print(json.dumps(measure(device, seconds=options.seconds)))


if __name__ == "__main__":
    main()
