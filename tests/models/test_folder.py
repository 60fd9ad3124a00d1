"""A model folder is checked before transformers opens it."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from plaudit.errors import ModelError
from plaudit.models.folder import check_folder, check_tokenizer, weight_files


@pytest.fixture
def folder(tmp_path):
    """A model folder in two shards that is as it should be."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("a", "b"):
        save_file({name: torch.ones(2)}, tmp_path / f"{name}.safetensors")
    index(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    return tmp_path


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def refusal(folder):
    with pytest.raises(ModelError) as error:
        check_folder(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_shards_and_a_single_file_are_accepted(folder):
    check_folder(folder)
    assert [path.name for path in weight_files(folder)] == ["a.safetensors", "b.safetensors"]
    (folder / "model.safetensors.index.json").unlink()
    (folder / "a.safetensors").rename(folder / "model.safetensors")
    check_folder(folder)
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]


class Payload:
    """Something that runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize(
    "name",
    [
        "payload.bin",
        "../b.safetensors",
        "/etc/b.safetensors",
        "below/b.safetensors",
        "..\\b.safetensors",
        "C:b.safetensors",
        "",
    ],
)
def test_an_index_may_only_name_safetensors_files_of_the_folder(folder, name):
    (folder / "payload.bin").write_bytes(pickle.dumps(Payload()))
    index(folder, {"a": "a.safetensors", "b": name})
    assert repr(name) in refusal(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], "a.safetensors", {"a": 3}, {"a": None}, {"a": ["a.safetensors"]}])
def test_a_malformed_index_is_refused(folder, weight_map):
    index(folder, weight_map)
    assert "has no weight_map" in refusal(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "b.safetensors").unlink()
    assert "b.safetensors is missing" in refusal(folder)


@pytest.mark.parametrize("length", [0, 7, 40])
def test_a_truncated_shard_is_named(folder, length):
    path = folder / "b.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "b.safetensors: no whole safetensors file" in refusal(folder)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "model.safetensors is missing" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    assert "pickled (pytorch_model.bin)" in refusal(tmp_path)
    assert "convert it: python -c" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "\xff\xfe", "[" * 100_000, '{"model_type": 3}', "{}"])
def test_a_malformed_configuration_is_refused(folder, content):
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_other_malformed_files_are_named(folder, name):
    (folder / name).write_text('{"a": ')
    assert name in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text("{}")
    check_folder(folder)
    with pytest.raises(ModelError, match="has no tokenizer"):
        check_tokenizer(folder)
