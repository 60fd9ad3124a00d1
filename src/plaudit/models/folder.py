"""Checks of a model folder before transformers opens it. A folder may come from anywhere, so nothing in it is trusted.

No code of the folder runs, no pickle is read, and no path that it names leads out of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from plaudit.errors import ModelError
from plaudit.files import sha256

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
_LARGEST_JSON = 1 << 28  # bytes; the largest tokenizers have some 30 MB


def check_folder(folder: Path) -> None:
    """Refuse a model folder that is incomplete, damaged or unsafe.

    Raises:
        ModelError: the configuration or an index is malformed, or the weights are no whole safetensors files inside the
            folder.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder}: holds a LoRA adapter, not a whole model; merge it into its base model with plaudit merge "
            f"{folder} DIR, and use --model DIR"
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder}: no model in this folder (config.json is missing)")
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'}: names no model_type, so nobody knows how to open the model")
    for name, value in config.items():
        # The first may name any file; "owner/name" in the second is code that is fetched from the hub.
        if name == "transformers_weights" or (name.endswith("_implementation") and "/" in json.dumps(value)):
            raise ModelError(f"{folder / 'config.json'}: {name} = {value!r} is not allowed; remove it")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            read_json(folder / name)
    tensor_sizes(folder)


def check_tokenizer(folder: Path) -> None:
    """Refuse a model folder without a tokenizer, for which transformers would make an empty one, with a ModelError."""
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder}: has no tokenizer; copy tokenizer.json and tokenizer_config.json of the model there"
        )


def end_ids(folder: Path) -> list[int]:
    """The tokens at which a model's generation_config.json ends a response: none, one or several."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.exists() else None
    return [id for id in (found if isinstance(found, list) else [found]) if isinstance(id, int)]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        ModelError: there are none, or the index names something else.
    """
    if (folder / _WEIGHTS).exists():  # transformers prefers it to an index, too
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).exists():
        pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
        if not pickles:
            raise ModelError(f"{folder}: has no weights ({_WEIGHTS} is missing)")
        raise ModelError(f"{folder}: its weights are pickled ({pickles[0]}); {converting(str(folder))}")
    named = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ModelError(f"{folder / _INDEX}: has no weight_map from tensors to files")
    files = sorted(set(named.values()))
    for name in files:
        plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
        if not plain or not name.endswith(".safetensors"):
            raise ModelError(f"{folder / _INDEX}: names {name!r}, which is no safetensors file in this folder")
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; copy or download it again")
    return [folder / name for name in files]


def content_hash(folder: Path) -> str:
    """Hash of the settings, tokenizer and weights in a model folder. Unchanged files are read once a process."""
    names = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja"))
    parts = [(p.name, _content_hash(p, p.stat().st_size, p.stat().st_mtime_ns)) for p in names]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _content_hash(path: Path, size: int, modified: int) -> str:
    return sha256(path)


def converting(name: str) -> str:
    """How to convert pickled weights."""
    return (
        "a pickle can run any code when it is read, so plaudit reads none; if you trust the model, convert it: "
        'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f'[k.from_pretrained({name!r}).save_pretrained({name.rsplit("/")[-1]!r}) for k in (M, T)]"'
    )


def tensor_sizes(folder: Path) -> dict[str, int]:
    """The number of elements of every tensor in the weight files.

    Raises:
        ModelError: as `weight_files`, or a file is not whole.
    """
    sizes: dict[str, int] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                sizes |= {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: no whole safetensors file: {error}; copy or download it again") from None
    return sizes


def non_finite(folder: Path) -> str:
    """Where the weight files hold NaN or infinity: file and tensor; empty if nowhere."""
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if not torch.isfinite(file.get_tensor(name)).all():
                    return f"{path}: tensor {name}"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(f"{path}: has {path.stat().st_size:,} bytes, too many for a file of settings")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no JSON: {str(error) or 'nested too deeply'}"
        raise ModelError(f"{path}: {reason}; copy or download it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds no JSON object; copy or download it again")
    return content
