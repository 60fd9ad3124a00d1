"""From a name to a model: built in, a folder, or a hub id. Everything is read and written as safetensors."""

from __future__ import annotations

import difflib
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
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from plaudit.errors import ModelError
from plaudit.models import lora, smollm2
from plaudit.models.tokenizer import Tokenizer

_PATIENCE = 8  # seconds to wait for the hub's first answer
BUILT_IN: dict[str, Callable[[], Path]] = {
    "movie-gpt2": lambda: Path(__file__).parent / "movie_gpt2",
    "smollm2": smollm2.folder,  # fetched on first use
}

transformers.utils.logging.disable_progress_bar()


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model by built-in name, folder or hub id."""
    with _explained(name):
        return Tokenizer.of(AutoTokenizer.from_pretrained(_location(name)))


def load_causal_lm(name: str) -> Any:
    """A causal language model in float32.

    Raises:
        ModelError: it is not found, or is not a causal language model.
    """
    with _explained(name):
        where = _location(name)
        model = AutoModelForCausalLM.from_pretrained(
            where, config=_config(where), dtype=torch.float32, use_safetensors=True
        )
    return _own(model)


def model_without_weights(name: str) -> Any:
    """A causal language model on torch's meta device: its shapes, without its weights.

    Raises:
        ModelError: not found, or not a causal language model.
    """
    with _explained(name), torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(_location(name)))


def load_reward_model(name: str, pad_id: int) -> Any:
    """A sequence classifier with one label on the backbone in folder `name`, in float32.

    A folder that holds only a language model gets a head that must then be initialised.
    """
    with _explained(name):
        where = _location(name)
        config = _config(where, num_labels=1, pad_token_id=pad_id)
        model = AutoModelForSequenceClassification.from_pretrained(
            where, config=config, dtype=torch.float32, use_safetensors=True
        )
    return _own(model)


def _own(model: Any) -> Any:
    """The model in memory of its own: as opened, its tensors are views of the mapped file.

    While one of them is in use, every page of the file that was ever read counts as held: for PPO at GPT-2's size,
    whose three models share most of what they do not convert, that was 0.7 GiB of nothing.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def save(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """A plain Hugging Face model directory: from_pretrained opens it, without plaudit.

    Adapters are added to the weights, and lie in a folder of their own besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=lora.plain_state(model), safe_serialization=True)
    lora.save_adapters(model, folder / lora.FOLDER)
    tokenizer.hf.save_pretrained(folder)


def window(model: Any) -> int:
    """The most tokens the model can read at once; a very large number where it has no limit."""
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
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ModelError(
            f"no model '{name}'{hint}: give a built-in name ({', '.join(BUILT_IN)}), a folder with a Hugging Face "
            "model, or a hub id such as openai-community/gpt2"
        )
    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        # One question before from_pretrained asks: left to itself it asks an unreachable hub for half a minute.
        try:
            HfApi().model_info(name, timeout=_PATIENCE)
        except Exception as error:  # whatever the network library beneath raises
            raise OSError(f"the hub does not answer: {error}") from error
    return name


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """transformers' and the hub's many errors as one line; their warnings and retries kept quiet."""
    loud = [logging.getLogger(n) for n in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir() or name in BUILT_IN:
            first = str(error).strip().splitlines()[0]
            remedy = f"; delete {smollm2.kept_at()} to have it made again" if name == "smollm2" else ""
            raise ModelError(f"{name}: cannot be opened as a model: {first}{remedy}") from error
        token = "" if os.environ.get("HF_TOKEN") else ", and HF_TOKEN is set if the model is gated"
        raise ModelError(
            f"cannot fetch '{name}' from the hub: check the name and the network{token}; "
            "without a network, --model takes movie-gpt2 or a folder"
        ) from error
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
