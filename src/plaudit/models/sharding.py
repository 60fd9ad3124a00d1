"""Weights that are divided among the processes of a job, as torch's FSDP2 does it.

Each process keeps a share of the rows of every weight, of its gradient and of its optimizer state. A layer gathers its
weights before it runs and drops them afterwards, in the backward pass too, which adds up the gradients of all
processes. What is outside of the layers (embeddings, the last norm, the output embedding) is gathered by `unsharded`.
All processes must therefore make the same passes, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.models.layers import layers

_WHOLE = "score."  # a head of a few numbers, which every process has, as it has the value head
_sharded: WeakSet[Any] = WeakSet()


def shard(model: Any) -> None:
    """Divide the weights of a causal language model or classifier among all processes, in place.

    Raises:
        ModelError: the layers of the model are not known, or torch is too old.
    """
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageReader  # noqa: F401  # for its checkpoints
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        FSDPModule.set_force_sum_reduction_for_comms  # noqa: B018
    except (ImportError, AttributeError):
        raise ModelError("sharding = 'full' needs a newer torch, 2.13 for example; or use sharding = 'none'") from None
    stack = layers_to_shard(model)
    mesh = init_device_mesh(next(model.parameters()).device.type, (torch_dist.get_world_size(),))
    whole = {p for name, p in model.named_parameters() if name.startswith(_WHOLE)}
    for layer in stack:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
    for part in (model, *stack):  # gradients are sums: losses are divided by the count of all processes
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    # The first module that runs becomes the root of FSDP2. The engines call layers, so the model runs once here.
    model.become_root = lambda: None
    register_fsdp_forward_method(model, "become_root")
    model.become_root()
    model.reshard()
    _sharded.add(model)


def layers_to_shard(model: Any) -> nn.ModuleList:
    """The layers of a model, each of which gathers its own weights; a ModelError if they are not known."""
    try:
        return layers(model)
    except ModelError:
        kind = model.config.model_type
        raise ModelError(f"sharding = 'full': the layers of a {kind} model are not known; use 'none'") from None


def gathered(outside: int, layer: int) -> tuple[int, int]:
    """Bytes beside a process's shares of a model in float32: weights during a pass, and gradients in a backward pass.

    Args:
        outside: number of weights outside of the layers.
        layer: number of weights of a layer.
    """
    # A layer is gathered while the one before it runs. What is outside is copied to add up its gradients.
    return 4 * (outside + 2 * layer), 4 * (2 * outside + layer)


def is_sharded(model: Any) -> bool:
    """Whether the weights of a model, or of the model in a `Policy` or `RewardModel`, are divided."""
    return any(each in _sharded for each in (model, *model.children()))


def any_sharded() -> bool:
    """Whether this process has its share of some model."""
    return len(_sharded) > 0


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is one process's share of a larger one."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The numbers of a tensor that this process has: its share, or all of them."""
    return tensor.to_local() if is_share(tensor) else tensor  # type: ignore[attr-defined]


@contextmanager
def unsharded(model: Any, *, layers_too: bool = False) -> Iterator[None]:
    """Within this context the weights outside of the layers are whole, and with `layers_too` those of the layers.

    Where gradients are computed, they stay whole until the backward pass has ended. Without `layers_too` each layer
    gathers its own weights when it runs. With it processes may run their layers as often as they like.
    """
    gathered = [part for part in _parts(model, layers_too) if _is_divided_now(part)]
    for part in gathered:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        waits = not layers_too and torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())
        for part in gathered:
            part.set_reshard_after_forward(part is not model, recurse=False)
            if not waits:
                part.reshard()


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of all tensors together, of which this process may have shares."""
    tensors = list(tensors)
    shares, whole = ([local(t) for t in tensors if is_share(t) == which] for which in (True, False))
    squares = torch.stack(
        [*(t.float().square().sum() for t in shares), torch.zeros((), device=tensors[0].device)]
    ).sum()
    return (total(squares) + sum(t.float().square().sum() for t in whole)).sqrt()


def total(number: Tensor) -> Tensor:
    """The sum of a number over all processes, the same bits on each."""
    torch_dist.all_reduce(number)
    return number


@torch.no_grad()
def collect(model: Any, keep: bool) -> None:
    """Give the process that keeps them the whole weights, one tensor after the other; the model cannot run afterwards.

    All processes must call it. It does nothing for a model that is not sharded.
    """
    if not is_sharded(model):
        return
    for part in _parts(model, True):
        part.reshard()
    found: dict[int, nn.Parameter] = {}
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not is_share(parameter):
                continue
            if id(parameter) not in found:
                whole = parameter.full_tensor()
                found[id(parameter)] = nn.Parameter(whole, parameter.requires_grad) if keep else parameter
            setattr(module, name, found[id(parameter)])
    for part in _parts(model, True):
        part.__class__ = type(part).__mro__[2]  # that of the model before FSDP2, which its config.json names
    _sharded.discard(model)


def _parts(model: Any, layers_too: bool) -> list[Any]:
    """What gathers its weights together: what is outside of the layers, and each layer."""
    if not is_sharded(model):
        return []
    return [model, *layers(model)] if layers_too else [model]


def _is_divided_now(part: Any) -> bool:
    own = part.get_input_embeddings().weight if hasattr(part, "get_input_embeddings") else next(part.parameters())
    return is_share(own)
