"""Merge a LoRA adapter that peft saved into its base model: `plaudit merge ADAPTER DIR`."""

from __future__ import annotations

import warnings
from pathlib import Path

from transformers import AutoTokenizer

from plaudit.errors import ModelError
from plaudit.files import share_tensors
from plaudit.models.folder import check_tokenizer, read_json
from plaudit.models.hub import folder_of
from plaudit.models.loading import load_causal_lm
from plaudit.models.lora import check_installed
from plaudit.models.quiet import first_line, quiet


def merge_folder(adapter: Path, into: Path) -> str:
    """Write the merged model and its tokenizer as a plain folder; returns the name of the base model.

    Raises:
        ModelError: there is no such adapter, it is pickled or of another kind, its base model cannot be opened or does
            not fit, peft is missing, or `into` exists.
    """
    settings = read_json(adapter / "adapter_config.json")
    if into.exists():
        raise ModelError(f"{into}: exists already; choose a new folder")
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str):
        raise ModelError(f"{adapter / 'adapter_config.json'}: names no base model (base_model_name_or_path)")
    if settings.get("task_type") not in ("CAUSAL_LM", None):
        raise ModelError(f"{adapter}: is an adapter for {settings['task_type']}, not for a language model")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(f"{adapter}: has no adapter_model.safetensors; save the adapter again with peft")
    check_installed()
    from peft import PeftModel

    name = f"{base}@{revision}" if revision and not Path(base).is_dir() else base
    lm = load_causal_lm(name)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what peft itself calls
            merged = PeftModel.from_pretrained(lm, str(adapter)).merge_and_unload()
    except Exception as error:  # of any class: whatever peft raises
        raise ModelError(f"{adapter}: does not fit its base model {name}: {first_line(error)}") from None
    source = adapter if any(adapter.glob("tokenizer*")) else folder_of(name)
    check_tokenizer(source)
    merged.save_pretrained(into)
    share_tensors(into)
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(into)
    return name
