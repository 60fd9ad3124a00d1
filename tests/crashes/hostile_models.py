"""Model folders that are damaged, incomplete or meant to run code. Each is a good folder with one change."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

MARK = "code-has-run"  # made in the current directory by the code in these folders
_CODE = f"open({MARK!r}, 'w').close()\n"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MUTATIONS = 60


class Case(NamedTuple):
    """A hostile folder.

    Attributes:
        about: what is wrong with it.
        usable: whether training from it is right all the same.
        change: makes it from a good folder.
    """

    about: str
    usable: bool
    change: Callable[[Path], Any]


FOLDERS: dict[str, Case] = {}


def make(name: str, good: Path, box: Path) -> None:
    """Put the folder `theirs` into a box, from a copy of a good model folder."""
    shutil.copytree(good, box / "theirs")
    FOLDERS[name].change(box / "theirs")


def _case(name: str, *, usable: bool = False) -> Callable[[Callable[[Path], Any]], None]:
    def add(change: Callable[[Path], Any]) -> None:
        FOLDERS[name] = Case(name.replace("-", " "), usable, change)

    return add


def _settings(file: str, **changes: Any) -> Callable[[Path], Any]:
    """Changes keys of a JSON file."""

    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | changes))

    return change


def _content(file: str, content: str | bytes) -> Callable[[Path], Any]:
    """Replaces a file."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(raw)


def _weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    """Changes the tensors."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / _WEIGHTS)
        change(tensors)
        save_file(tensors, folder / _WEIGHTS, {"format": "pt"})

    return rewrite


def _index(file: Any) -> Callable[[Path], Any]:
    """Replaces the weights by an index in which every tensor is in `file`."""

    def change(folder: Path) -> None:
        names = list(load_file(folder / _WEIGHTS))
        (folder / _WEIGHTS).rename(folder.parent / "outside.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, file)}
        (folder / _INDEX).write_text(json.dumps(index))

    return change


class _Payload:
    def __reduce__(self):
        return exec, (_CODE,)


for _file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", _WEIGHTS):
    _needed = _file in ("config.json", "tokenizer.json", _WEIGHTS)
    _case(f"empty-{_file}")(_content(_file, ""))
    _case(f"no-json-{_file}")(_content(_file, "{not json"))
    _case(f"list-{_file}")(_content(_file, "[]"))
    _case(f"deep-{_file}")(_content(_file, "[" * 100_000))
    _case(f"nul-{_file}")(_content(_file, b"\x00" * 100))
    _case(f"removed-{_file}", usable=not _needed)(lambda folder, file=_file: (folder / file).unlink(missing_ok=True))
    _case(f"folder-{_file}")(lambda folder, f=_file: ((folder / f).unlink(missing_ok=True), (folder / f).mkdir()))

for _name, _change in {
    "unknown-type": {"model_type": "nobody-knows"},
    "type-is-a-path": {"model_type": "../../gpt2"},
    "type-is-a-list": {"model_type": ["gpt2"]},
    "type-of-an-encoder": {"model_type": "bert", "architectures": ["BertModel"]},
    "negative-width": {"n_embd": -32},
    "no-width": {"n_embd": 0},
    "width-is-text": {"n_embd": "wide"},
    "width-is-wrong": {"n_embd": 48},
    "heads-do-not-divide": {"n_head": 5},
    "no-heads": {"n_head": 0},
    "more-layers": {"n_layer": 9},
    "layers-is-null": {"n_layer": None},
    "no-window": {"n_positions": 0},
    "huge-vocabulary": {"vocab_size": 10**12},
    "small-vocabulary": {"vocab_size": 7},
    "unknown-activation": {"activation_function": "os.system"},
    "unknown-dtype": {"torch_dtype": "float31", "dtype": "float31"},
    "nan-epsilon": {"layer_norm_epsilon": float("nan")},
    "unknown-quantization": {"quantization_config": {"quant_method": "nobody-knows", "bits": 3}},
    "wrong-quantization": {"quantization_config": "int8"},
}.items():
    _case(f"config-{_name}", usable=_name == "unknown-quantization")(_settings("config.json", **_change))
_case("config-fewer-layers")(_settings("config.json", n_layer=1))
_case("config-eos-beyond-the-vocabulary", usable=True)(_settings("config.json", eos_token_id=10**9))

_case("tokenizer-of-an-unknown-class", usable=True)(_settings("tokenizer_config.json", tokenizer_class="os.system"))
_case("tokenizer-larger-than-the-model", usable=True)(
    _settings("tokenizer_config.json", added_tokens_decoder={"9999": {"content": "<new>", "special": True}})
)
_case("tokenizer-with-a-hostile-template", usable=True)(
    _content("chat_template.jinja", "{{ cycler.__init__.__globals__.os.system('touch " + MARK + "') }}")
)

_case("weights-truncated")(lambda f: (f / _WEIGHTS).write_bytes((f / _WEIGHTS).read_bytes()[:-1000]))
_case("weights-header-too-long")(_content(_WEIGHTS, struct.pack("<Q", 1 << 62) + b"{}"))
_case("weights-header-no-json")(_content(_WEIGHTS, struct.pack("<Q", 4) + b"oops"))
_case("weights-offsets-beyond-the-end")(
    _content(_WEIGHTS, struct.pack("<Q", 64) + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64))
)
_case("weights-with-nan")(_weights(lambda t: next(iter(t.values())).view(-1)[:3].fill_(float("nan"))))
_case("weights-with-infinity")(_weights(lambda t: t["transformer.ln_f.weight"].fill_(float("inf"))))
_case("weights-of-one-layer-missing")(_weights(lambda t: [t.pop(n) for n in list(t) if ".h.1." in n]))
_case("weights-embedding-missing")(_weights(lambda t: t.pop("transformer.wte.weight")))
_case("weights-unexpected")(_weights(lambda t: t.update({"transformer.h.7.ln_1.weight": torch.ones(32)})))
_case("weights-other-shape")(_weights(lambda t: t.update({"transformer.ln_f.weight": torch.ones(31)})))
_case("weights-of-whole-numbers", usable=True)(
    _weights(lambda t: t.update({"transformer.ln_f.weight": torch.ones(32).long()}))
)
_case("weights-none")(_weights(dict.clear))
_case("weights-link-outside", usable=True)(
    lambda f: ((f / _WEIGHTS).rename(f.parent / "outside"), (f / _WEIGHTS).symlink_to(f.parent / "outside"))
)

_case("index-of-a-path-above")(_index("../outside.safetensors"))
_case("index-of-an-absolute-path")(lambda folder: _index(str(folder.parent / "outside.safetensors"))(folder))
_case("index-of-a-missing-file")(_index("model-00001-of-00001.safetensors"))
_case("index-of-numbers")(_index(7))
_case("index-of-nothing")(lambda f: ((f / _WEIGHTS).unlink(), _content(_INDEX, '{"weight_map": {}}')(f)))


@_case("index-of-a-pickle")
def _(folder: Path) -> None:
    _index("pytorch_model.bin")(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload()))


@_case("pickle-instead-of-weights")
def _(folder: Path) -> None:
    (folder / _WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload()))


def _own_code(folder: Path, file: str, **auto: str) -> None:
    (folder / "theirs.py").write_text(_CODE)
    _settings(file, auto_map=auto)(folder)


@_case("code-of-its-own-model")
def _(folder: Path) -> None:
    auto = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    _own_code(folder, "config.json", **auto)
    _settings("config.json", model_type="theirs", architectures=["Model"])(folder)


@_case("code-beside-a-known-model", usable=True)
def _(folder: Path) -> None:
    _own_code(folder, "config.json", AutoConfig="theirs.Config", AutoModelForCausalLM="theirs.Model")


@_case("code-of-its-own-tokenizer", usable=True)
def _(folder: Path) -> None:
    _own_code(folder, "tokenizer_config.json", AutoTokenizer=["theirs.Tokenizer", None])


@_case("code-for-generation", usable=True)
def _(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(_CODE)


@_case("adapter-of-a-model-elsewhere")
def _(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "elsewhere")
    (folder / _WEIGHTS).unlink()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "elsewhere", "r": 2, "target_modules": ["c_attn"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({"x": torch.ones(1)}, folder / "adapter_model.safetensors")


def _mutated(seed: int) -> Callable[[Path], None]:
    """Replaces one value, anywhere in one of the JSON files, by one of another kind."""

    def change(folder: Path) -> None:
        draw = random.Random(seed)
        path = draw.choice(sorted(folder.glob("*.json")))
        content = json.loads(path.read_text())
        place, key = content, draw.choice(sorted(content))
        while isinstance(place[key], dict) and place[key] and draw.random() < 0.8:
            place = place[key]
            key = draw.choice(sorted(place))
        place[key] = draw.choice((None, -1, 0, 1.5, 10**20, "", "x", [], {}, [None], {"a": 1}, True, float("nan")))
        path.write_text(json.dumps(content))

    return change


for _seed in range(_MUTATIONS):
    _case(f"mutated-{_seed}", usable=True)(_mutated(_seed))
