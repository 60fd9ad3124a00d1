"""Tiny stand-ins that tests share: texts, and a random GPT-2."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

GOOD = ["a warm and moving film", "the cast is wonderful", "funny , clever and kind", "a joy to watch"]
BAD = ["a dull and tired film", "the cast is dreadful", "slow , stupid and loud", "a chore to watch"]


def make_lm(vocab: int = 300, layers: int = 2, width: int = 32, window: int = 64, seed: int = 0) -> GPT2LMHeadModel:
    """A random GPT-2 with weights large enough that its predictions differ from position to position."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab, n_positions=window, n_embd=width, n_layer=layers, n_head=2, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)
