"""LoRA: train small matrices that are added to the frozen weights of the linear layers. Source: Hu et al. 2021.

peft adds the adapters to the model in place; this module draws their initial values from the seed. Policy, reference
and reward model can share the frozen weights in memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from plaudit import rng
from plaudit.errors import ModelError

FOLDER = "adapter"  # in a model's folder; next to config.json, transformers would add the adapter twice
_NAME = "default"  # peft's default name of an adapter
_PEFT_PREFIX = "base_model.model."  # prefix of all tensor names in peft's files


def add_adapters(model: Any, settings: Any, seed: int, stage: str) -> None:
    """Add an adapter to each trainable linear layer of the backbone and train only the adapters; rank 0 does nothing.

    The model's output does not change: B starts at zero. A is drawn uniformly, with `seed` and `stage` as its seed.
    """
    if not settings.lora_rank:
        return
    backbone = set(model.base_model.modules())  # without the language model head and the score head
    linear = [(name, m) for name, m in model.named_modules() if m in backbone and isinstance(m, (nn.Linear, Conv1D))]
    names = [name for name, layer in linear if layer.weight.requires_grad]
    if not names:
        raise ModelError(f"lora_rank = {settings.lora_rank}: a {model.config.model_type} has no linear layer to adapt")
    _inject(model, names, settings.lora_rank, settings.lora_alpha)
    for name, layer in _adapted(model):
        reads, writes = layer.in_features, layer.out_features
        uniform = rng.uniforms(range(settings.lora_rank), reads, seed, stage, 0, f"adapter {name}")
        _set(layer, (2 * uniform - 1).float() / reads**0.5, torch.zeros(writes, settings.lora_rank))


def check_installed() -> None:
    """Raise ModelError if peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ModelError(f"LoRA needs the library peft ({error}): pip install 'plaudit[lora]'") from None


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the model with its adapters merged into the weights; the model itself is not changed."""
    frozen = {name: tensor for name, tensor in model.state_dict().items() if not _is_in_adapter(name)}
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in frozen.items()}
    return state | {f"{name}.weight": _merged(layer) for name, layer in _adapted(model)}


def merge(model: nn.Module) -> None:
    """Merge the adapters into the weights and remove them."""
    for name, layer in _adapted(model):
        layer.base_layer.weight = nn.Parameter(_merged(layer), requires_grad=False)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.base_layer)


def save_adapters(model: Any, folder: Path) -> None:
    """Write the adapters, and the head of a reward model, in peft's format; does nothing without adapters."""
    layers = _adapted(model)
    if not layers:
        return
    kept = {
        name.replace(f".{_NAME}.", "."): value for name, value in model.state_dict().items() if _is_in_adapter(name)
    }
    config: dict[str, Any] = model.peft_config[_NAME].to_dict()
    config |= {"target_modules": [name for name, _ in layers], "inference_mode": True, "task_type": "CAUSAL_LM"}
    config["base_model_name_or_path"] = model.name_or_path or None
    if hasattr(model, "score"):
        kept["score.weight"] = model.score.weight.detach()
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    folder.mkdir(parents=True, exist_ok=True)
    contents = {_PEFT_PREFIX + name: value.contiguous() for name, value in kept.items()}
    save_file(contents, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)  # the order of a set differs between processes
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def load_adapters(model: Any, folder: Path) -> None:
    """Add the adapters that `save_adapters` wrote in `folder` to their base model, and set its score head if saved."""
    saved = load_file(folder / "adapter_model.safetensors")
    tensors = {name.removeprefix(_PEFT_PREFIX): value for name, value in saved.items()}
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _inject(model, config["target_modules"], config["r"], config["lora_alpha"])
    for name, layer in _adapted(model):
        _set(layer, tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"])
    if "score.weight" in tensors:
        with torch.no_grad():
            model.score.weight.copy_(tensors["score.weight"])


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    """(name, layer) of the layers with an adapter. Works without peft too."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


def _is_in_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


@torch.no_grad()
def _merged(layer: Any) -> Tensor:
    return layer.base_layer.weight + layer.get_delta_weight(_NAME)


def _inject(model: Any, names: list[str], rank: int, alpha: int) -> None:
    """Add adapters without values to these layers, and freeze all other parameters."""
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    # GPT-2 uses the Conv1D of transformers, which stores its weight transposed.
    transposed = isinstance(model.get_submodule(names[0]), Conv1D)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names, fan_in_fan_out=transposed)
    # On the meta device: otherwise peft would draw the initial values from torch's global generator.
    inject_adapter_in_model(config, model, _NAME, low_cpu_mem_usage=True)
    assert [name for name, _ in _adapted(model)] == names


def _set(layer: Any, a: Tensor, b: Tensor) -> None:
    for part, values in ((layer.lora_A, a), (layer.lora_B, b)):
        part[_NAME].weight = nn.Parameter(values.to(layer.base_layer.weight))
