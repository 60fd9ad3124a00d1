"""The source experiment's own kind of model and data, by name: GPT-2's size and tokenizer, SST-2's rows."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from plaudit.config import build, preset
from plaudit.models.loading import load_tokenizer
from plaudit.pipeline import steps
from plaudit.training.run import STAGES, Run

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not (SHARED / "sst2").exists(), reason="SST-2 and GPT-2's tokenizer are not here"
)


@pytest.fixture
def gpt2_folder(tmp_path):
    """GPT-2's own config with random weights, and its own tokenizer files as they were released."""
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(SHARED / "gpt2-tokenizer" / name, folder / name)
    return folder


@needs_shared_data
def test_the_source_experiment_runs_on_gpt2s_size_and_sst2s_rows(tmp_path, gpt2_folder):
    tokenizer = load_tokenizer(str(gpt2_folder))
    assert tokenizer.bos_id == tokenizer.eos_id == 50256
    assert tokenizer.prompt("the film is")[1:] == [1169, 2646, 318]  # as published with the model
    assert tokenizer.pad_id not in (50256, *tokenizer.prompt("ÿ ý"))

    rows = (SHARED / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)[:241]
    (tmp_path / "train.tsv").write_text("".join(rows), encoding="utf-8")
    small = {
        "model": str(gpt2_folder), "data": str(tmp_path / "train.tsv"), "device": "cpu", "dtype": "float32",
        "sft.batch_size": 64, "reward_model.batch_size": 64, "sft.max_tokens": 24, "reward_model.max_tokens": 24,
        "ppo.iterations": 1, "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.epochs": 1, "ppo.max_new_tokens": 8,
        "evaluation.prompts": 8,
    }  # fmt: skip
    config = build(preset("gpt2-sst2"), small)
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=STAGES)
    reports = list(steps(config, run))
    assert {r.stage for r in reports} == set(STAGES)
    summary = json.loads((run.folder("sft") / "summary.json").read_text())
    assert summary["perplexity_before"] == pytest.approx(50257, rel=0.5)  # random weights know nothing
    assert summary["perplexity"] < 0.5 * summary["perplexity_before"]
    assert json.loads((run.path / "evaluation.json").read_text())["meta"]["prompts"] == 8
