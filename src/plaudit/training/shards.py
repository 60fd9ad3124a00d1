"""The tensors of a checkpoint: one safetensors file, or one for each rank where they are divided among the ranks.

The latter are those of torch's DCP (`torch.distributed.checkpoint`), which gives any number of ranks their shares of
what any other number has written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from plaudit.errors import RunError
from plaudit.files import writes
from plaudit.models.sharding import is_share
from plaudit.training import dist

FILE = "tensors.safetensors"  # where they are not divided
Described: TypeAlias = dict[str, tuple[torch.Size, torch.dtype]]  # shape and number format of tensors by name


_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def divided(tensors: Iterable[Tensor]) -> bool:
    """Whether every rank has a share of some of these tensors, and so takes part in writing and reading them."""
    return any(map(is_share, tensors))


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a folder that exists; where they are divided, all ranks must call it.

    Raises:
        RunError: a rank cannot write its share.
    """
    if not divided(tensors.values()):
        if writes():
            save_file(dict(tensors), folder / FILE)
        return
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save

    dist.barrier()  # the folder is there
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise dist.everywhere(RunError(f"{folder}: {_reason(error)}")) from None


def files_of(folder: Path) -> list[str]:
    """The names of the files of tensors in a folder."""
    return sorted(path.name for path in folder.glob("*.safetensors"))


def read(folder: Path, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors in a folder by name.

    Args:
        into: tensors or shares of them, which are filled; all tensors of the folder must be there. None for new ones.
    """
    if into is None:
        into = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in described(folder).items()}
    if (folder / FILE).exists() and not divided(into.values()):
        for name, tensor in load_file(folder / FILE).items():
            into[name].copy_(tensor)
        return into
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a load by one process
        reader = HuggingFaceStorageReader(str(folder))
        load(dict(into), storage_reader=reader, no_dist=not divided(into.values()))
    return into


def described(folder: Path) -> Described:
    """What tensors a folder has."""
    if (folder / FILE).exists():
        with safe_open(folder / FILE, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (torch.Size(x.get_shape()), _DTYPES[x.get_dtype()]) for name, x in slices.items()}
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    found: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: (about.size, about.properties.dtype) for name, about in found.items()}


def _reason(error: Any) -> str:
    """What failed first, in words."""
    rank, (cause, _) = min(error.failures.items())
    return f"rank {rank} cannot write its share: {' '.join(str(cause).split())[:300]}"
