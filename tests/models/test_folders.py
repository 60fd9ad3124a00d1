"""Model folders as people publish them: sharded, in half precision, with tokenizers of every habit."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import labelled_texts, make_lm, make_tokenizer, make_tokenizer_of

from plaudit.config import build
from plaudit.errors import DataError, ModelError, PlauditError
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.pipeline import check, steps
from plaudit.training.run import Run


@pytest.fixture
def folder(tmp_path):
    make_lm().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def trained(folder, tmp_path, **more):
    """A run whose SFT is trained from the folder for one epoch."""
    (tmp_path / "train.tsv").write_text(labelled_texts(6))
    given = {"model": str(folder), "data.name": str(tmp_path / "train.tsv"), "device": "cpu", "dtype": "float32"}
    config = build(given, {"prompt_max": 3, "sft.epochs": 1}, more)
    check(config, tmp_path / "run", ("sft",))
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft",))
    list(steps(run, ("sft",)))
    return run


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_shards_hold_the_same_model(folder, tmp_path):
    whole = load_causal_lm(str(folder))
    make_lm().save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    make_tokenizer().save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert same(load_causal_lm(str(tmp_path / "sharded")), whole)
    run = trained(tmp_path / "sharded", tmp_path)
    assert not same(load_causal_lm(run.model("sft")), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_opened_trained_and_saved_in_float32(folder, tmp_path, dtype):
    lm = load_causal_lm(str(folder)).to(dtype)
    lm.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    opened = load_causal_lm(str(folder))
    assert all(p.dtype == torch.float32 for p in opened.parameters())
    assert same(opened, lm.float())  # no value changes
    run = trained(folder, tmp_path, **{"sft.lr": 1e-6})
    again = load_causal_lm(run.model("sft"))
    assert json.loads((run.folder("sft") / "config.json").read_text())["dtype"] == "float32"
    # A change far below the format's precision is kept.
    change = max((p - q).abs().max().item() for p, q in zip(again.parameters(), opened.parameters(), strict=True))
    assert 0 < change < 1e-4


def test_the_command_that_converts_pickled_weights_works(folder, tmp_path):
    whole = load_causal_lm(str(folder))
    torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"its weights are pickled \(pytorch_model\.bin\)") as error:
        load_causal_lm(str(folder))
    command = str(error.value).partition("convert it: ")[2].replace("python", sys.executable, 1)
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(command, shell=True, check=True, cwd=tmp_path / "elsewhere", capture_output=True)
    converted = tmp_path / "elsewhere" / "model"
    assert same(load_causal_lm(str(converted)), whole)
    assert load_tokenizer(str(converted)).eos_id == 0


@pytest.mark.parametrize("kind", ["byte-level without bos", "metaspace", "unigram", "wordpiece", "words"])
def test_a_tokenizer_of_any_habit_is_trained_with(folder, tmp_path, kind):
    make_tokenizer_of(kind).save_pretrained(folder)
    run = trained(folder, tmp_path)
    assert run.complete("sft")


def test_a_tokenizer_that_pads_with_eos_is_trained_to_end(folder, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    found = load_tokenizer(str(folder))
    assert found.pad_id != found.eos_id
    assert trained(folder, tmp_path).complete("sft")


def test_added_tokens_are_used_where_the_embedding_has_them_and_refused_where_not(folder, tmp_path):
    tokenizer, lm = make_tokenizer(), make_lm()
    tokenizer.add_tokens(["superfilm"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="'superfilm' with id 300"):
        trained(folder, tmp_path)
    assert not (tmp_path / "run").exists()
    lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    lm.save_pretrained(folder)
    run = trained(folder, tmp_path)
    assert 300 in load_tokenizer(run.model("sft")).prompt("superfilm")


def no_eos(folder, _):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({k: v for k, v in content.items() if k != "eos_token"}))


def no_weights(folder, _):
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder, _):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def another_kind(folder, _):
    edit(folder, model_type="t5", architectures=["T5ForConditionalGeneration"])


def unknown_kind(folder, _):
    edit(folder, model_type="from_next_year")


def too_large(folder, monkeypatch):
    monkeypatch.setattr("plaudit.training.memory.free", lambda device: 2**20)


def short_window(folder, _):
    make_lm(window=8).save_pretrained(folder)


def not_finite(folder, _):
    lm = make_lm()
    lm.transformer.h[1].mlp.c_fc.weight.data[0, 0] = torch.nan
    lm.save_pretrained(folder)


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_eos, "has no end-of-text token; set its eos_token"),
        (no_weights, "has no weights (model.safetensors is missing)"),
        (no_tokenizer, "has no tokenizer; copy tokenizer.json"),
        (another_kind, "cannot be opened as a model"),
        (unknown_kind, "cannot be opened as a model"),
        (too_large, "lower microbatch_size, batch_size or max_new_tokens, set train_layers or lora_rank"),
        (short_window, "raise sft.max_tokens"),
        (not_finite, "has values that are not finite"),
    ],
)
def test_a_model_that_training_would_fail_with_is_refused_before_it_begins(
    folder, tmp_path, monkeypatch, damage, message
):
    """What happens with a model of the hub is in test_hub.py; with data, in the tests of data."""
    damage(folder, monkeypatch)
    with pytest.raises((ModelError, DataError)) as error:
        trained(folder, tmp_path)
    assert isinstance(error.value, PlauditError)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
