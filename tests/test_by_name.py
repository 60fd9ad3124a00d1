"""The preset gpt2-sst2 with a model of GPT-2's width, GPT-2's tokenizer and rows of SST-2."""

import json
import shutil

import pytest
import torch
from shared_data import SHARED, needs_shared
from transformers import GPT2Config, GPT2LMHeadModel

from plaudit.config import build, preset
from plaudit.models.loading import load_tokenizer
from plaudit.pipeline import steps
from plaudit.training.run import STAGES, Run

GPT2_FILES = ("vocab.json", "merges.txt")


@pytest.fixture
def gpt2_folder(tmp_path):
    """A folder with a random model of GPT-2's width and vocabulary, and the tokenizer files of GPT-2 as released."""
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=4)).save_pretrained(folder)
    for name in GPT2_FILES:
        shutil.copy(SHARED / "gpt2-tokenizer" / name, folder / name)
    return folder


@needs_shared("sst2/train.tsv", *(f"gpt2-tokenizer/{name}" for name in GPT2_FILES))
def test_the_whole_pipeline_with_gpt2_and_sst2(tmp_path, gpt2_folder):
    tokenizer = load_tokenizer(str(gpt2_folder))
    assert tokenizer.bos_id == tokenizer.eos_id == 50256
    assert tokenizer.prompt("the film is")[1:] == [1169, 2646, 318]  # published with the model
    assert tokenizer.pad_id not in (50256, *tokenizer.prompt("ÿ ý"))

    rows = (SHARED / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)[:161]
    (tmp_path / "train.tsv").write_text("".join(rows), encoding="utf-8")
    small = {
        "model": str(gpt2_folder), "data": str(tmp_path / "train.tsv"), "device": "cpu", "dtype": "float32",
        "sft.batch_size": 64, "reward_model.batch_size": 64, "sft.max_tokens": 64, "reward_model.max_tokens": 64,
        "ppo.iterations": 1, "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.epochs": 1, "ppo.max_new_tokens": 8,
        "evaluation.prompts": 8,
    }  # fmt: skip
    config = build(preset("gpt2-sst2"), small)
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=STAGES)
    reports = list(steps(run))
    assert {report.stage for report in reports} == set(STAGES)
    summary = json.loads((run.folder("sft") / "summary.json").read_text())
    # For random weights about the size of the vocabulary.
    assert summary["perplexity_before"] == pytest.approx(50257, rel=0.5)
    assert summary["perplexity"] < 0.5 * summary["perplexity_before"]
    assert json.loads((run.path / "evaluation.json").read_text())["meta"]["prompts"] == 8
