"""Small texts and random models that the tests share."""

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

GOOD = ["a warm and moving film", "the cast is wonderful", "funny , clever and kind", "a joy to watch"]
BAD = ["a dull and tired film", "the cast is dreadful", "slow , stupid and loud", "a chore to watch"]

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
LLAMA_LIKE = SMALL | {"intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 256}
FAMILIES = {
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=16, n_layer=3, n_head=2, initializer_range=0.3),
    "llama": lambda: LlamaConfig(**LLAMA_LIKE),
    "qwen2": lambda: Qwen2Config(**LLAMA_LIKE),
    "qwen3": lambda: Qwen3Config(**LLAMA_LIKE, head_dim=8),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL, intermediate_size=32),
}


def make_lm(vocab: int = 300, layers: int = 2, width: int = 32, window: int = 64, seed: int = 0) -> GPT2LMHeadModel:
    """A random GPT-2 with weights so large that its predictions differ between positions."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab, n_positions=window, n_embd=width, n_layer=layers, n_head=2, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def make_family(name: str, seed: int = 0):
    """A random causal model of a family: 64 tokens, 3 layers of width 16."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(FAMILIES[name]()).eval()


def padded_texts(lengths, left=()):
    """(ids, mask) of random texts with a vocabulary of 64, padded on the right, or on the left for the rows `left`."""
    width = max(lengths)
    ids = torch.randint(64, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    columns = torch.arange(width)
    mask = columns < torch.tensor(lengths)[:, None]
    for row in left:
        mask[row] = columns >= width - lengths[row]
    return ids, mask
