"""Each private function of torch that is used has a fallback, and no call changes the process."""

import ast
from pathlib import Path

import pytest
import torch
from tiny import make_lm, some_responses

import plaudit
from plaudit import rng
from plaudit.models.fast import head as module
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.head import Head
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.policy import Policy
from plaudit.training.optimizer import adamw, step

BF16 = torch.bfloat16
ROOT = Path(plaudit.__file__).parent
# Every private function of torch that the source calls. A new one needs a fallback, a test of it, and a line here.
FALLBACK_TESTED_IN = {
    ("models/fast/head.py", "torch.ops.mkldnn._is_mkldnn_bf16_supported"): "test_fallbacks.py",
    ("models/fast/head.py", "torch.ops.mkldnn._linear_pointwise"): "test_fallbacks.py",
    ("models/fast/head.py", "torch.ops.mkldnn._reorder_linear_weight"): "test_fallbacks.py",
    ("models/fast/optimizer.py", "torch._fused_adamw_"): "test_optimizer.py",
    ("training/device.py", "torch.cpu._is_{name}_supported"): "tests/training/test_run.py",
}
# What would change the process for whoever calls the library.
PROCESS_WIDE = {
    "mallopt", "set_num_threads", "set_num_interop_threads", "set_default_dtype", "set_default_device",
    "set_float32_matmul_precision", "set_flush_denormal", "set_grad_enabled", "set_autocast_enabled",
    "use_deterministic_algorithms", "set_detect_anomaly", "manual_seed", "set_start_method", "setrlimit",
}  # fmt: skip


def sources():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def dotted(node):
    """'torch.ops.x' for such an expression; None for any other."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return None if inner is None else f"{inner}.{node.attr}"


def names_in(tree):
    """Dotted names that the code reads, imports, or asks for with getattr."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node):
            yield dotted(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func) == "getattr" and not isinstance(node.args[1], ast.Name):
            yield f"{dotted(node.args[0])}.{ast.unparse(node.args[1]).removeprefix('f')[1:-1]}"


def test_private_functions_of_torch_are_known_and_each_has_a_fallback():
    found = {
        (path, name)
        for path, tree in sources()
        for name in names_in(tree)
        if name.startswith("torch.") and any(part.startswith("_") and part[:2] != "__" for part in name.split("."))
    }
    assert found == FALLBACK_TESTED_IN.keys()


def test_nothing_process_wide_is_set():
    for path, tree in sources():
        names = set(names_in(tree))
        if path not in ("rewards/calling.py", "cli/process.py"):  # ends a thread of its own; owns its process
            assert not [n for n in names if n.split(".")[0] in ("ctypes", "cffi")], path
        if path.startswith("cli/"):  # the command line owns its process
            continue
        assert not [n for n in names if n.split(".")[-1] in PROCESS_WIDE], path
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            flat = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
            assigned = [dotted(t) or "" for t in flat if isinstance(t, ast.Attribute)]
            assert not [name for name in assigned if name.startswith("torch.")], path


def process_state():
    """What torch keeps for the whole process."""
    return {
        "fp32_precision": torch.backends.mkldnn.matmul.fp32_precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("train_layers", [0, 1])
def test_the_process_is_as_it_was_after_training_and_generation(tmp_path, train_layers):
    lm = make_lm(vocab=64).eval()
    before = process_state()
    freeze_lower_layers(lm, train_layers)
    engine = FastEngine(BF16, tmp_path)
    engine.prepare(lm)
    policy = Policy(lm, engine)
    optimizer = adamw(policy, 0.01)
    responses = some_responses()
    logprobs, _ = policy(responses.ids, responses.attention_mask, responses.response_mask)
    logprobs.sum().backward()
    step(optimizer, policy, 1.0, "test")
    noise = rng.uniforms(range(6), 5, 0, "test", 0, "noise")
    engine.generate(lm, responses.ids[:, :4], responses.prompt_mask, noise, [5], 63)
    engine.compare(lm, lm, responses)
    engine.restore(lm, optimizer, lambda: make_lm(vocab=64))
    after = process_state()
    if train_layers == 0:  # the other case opened the model again, with random weights
        assert after == before
    del after["random"], before["random"]
    assert after == before


def test_the_precision_of_products_is_restored_after_an_exception():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with module._rounding(True):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError, match="shapes"):
        Head(make_lm(vocab=64), rounded=True).logits(torch.ones(2, 31), 1.0)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def logprobs_and_gradient(dtype=BF16, learns=False):
    """Of some tokens under a head that is frozen or learns."""
    lm = make_lm(vocab=64).requires_grad_(learns).to(dtype)
    states = rng.normals((40, 32), 0, "test", "states").float().requires_grad_()
    logprobs = Head(lm, rounded=True).logprobs(states, torch.arange(40), 0.7)
    weights = torch.linspace(-1, 2, 40)
    return [
        logprobs.detach(),
        *torch.autograd.grad((logprobs * weights).sum(), [states, *([lm.lm_head.weight] if learns else [])]),
    ]


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_a_frozen_head_gives_the_same_without_packed_weights(monkeypatch, dtype):
    packed = logprobs_and_gradient(dtype)
    monkeypatch.setattr(module, "_can_pack", lambda: False)
    for ours, theirs in zip(logprobs_and_gradient(dtype), packed, strict=True):
        assert (ours - theirs).norm() <= 0.01 * theirs.norm()


def test_packed_weights_are_not_asked_for_where_torch_has_none(monkeypatch):
    class NoOperations:
        pass

    monkeypatch.setattr(torch.ops, "mkldnn", NoOperations())
    assert not module._can_pack()
    logprobs, gradient = logprobs_and_gradient()
    assert logprobs.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("learns", [True, False])
def test_a_torch_that_cannot_round_products_gives_nearly_the_same(monkeypatch, learns):
    rounded = logprobs_and_gradient(learns=learns)
    monkeypatch.setattr(module, "_CAN_ROUND", False)
    monkeypatch.setattr(module, "_can_pack", lambda: False)
    for ours, theirs in zip(logprobs_and_gradient(learns=learns), rounded, strict=True):
        assert (ours.float() - theirs.float()).norm() <= 0.01 * theirs.float().norm()
