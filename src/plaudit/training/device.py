"""Where to compute, and in which number format."""

import torch

from plaudit.errors import ConfigError
from plaudit.training import dist


def device_named(name: str) -> torch.device:
    """The device of this name, or a GPU, if there is one, for auto: the current one, or the own one of a rank.

    Raises:
        ConfigError: this machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [name for name, there in present.items() if there]
    wanted = usable[0] if name == "auto" else name
    if wanted not in usable:
        raise ConfigError(f"device = '{wanted}': this machine has no such device; use cpu or auto")
    return torch.device(wanted, dist.own_gpu()) if wanted == "cuda" else torch.device(wanted)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware; without it they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return False
    supported = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    return any(check and check() for check in supported)
