"""The words and models of make_methods.py and the tests: equal in both environments, to the last bit."""

from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2PreTrainedModel, LlamaConfig

WORDS = ["<eos>", *"abcdefghi", "<pad>"]
EOS, PAD = 0, 10
SEEDS = {"policy": 1, "reference": 2}


def build(kind: Any, seed: int) -> Any:
    """A Llama or GPT-2 of 2 layers x 8 without dropout; its weights are from a generator that numpy keeps as it is."""
    shared = {"vocab_size": len(WORDS), "num_labels": 1, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    gpt2 = GPT2Config(**shared, **none, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    llama = LlamaConfig(
        **shared, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, tie_word_embeddings=True,
    )  # fmt: skip
    model = kind(gpt2 if issubclass(kind, GPT2PreTrainedModel) else llama)
    numbers = np.random.RandomState(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0  # of a norm
            parameter.copy_(torch.from_numpy(centre + 0.4 * numbers.standard_normal(parameter.shape)))
    return model


def gradients(model: Any) -> dict[str, Any]:
    """The gradient of the embedding, through which every token of a batch goes, and the norm of each gradient."""
    norms = [parameter.grad.norm() for _, parameter in sorted(model.named_parameters())]
    return {"embedding": model.get_input_embeddings().weight.grad, "norms": torch.stack(norms)}


def plain(tensor: torch.Tensor) -> list | int | float | bool:
    """Nested lists with each float32 in the fewest digits that give it back."""
    if not tensor.is_floating_point():
        return tensor.tolist()
    assert tensor.dtype == torch.float32
    assert tensor.isfinite().all()

    def shorten(x):
        return [shorten(y) for y in x] if isinstance(x, list) else float(f"{x:.9g}")

    short = shorten(tensor.tolist())
    assert torch.equal(torch.tensor(short), tensor.detach())
    return short
