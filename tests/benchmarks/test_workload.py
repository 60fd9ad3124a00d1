import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shared_data import SHARED, needs_shared
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from benchmarks.options import DATA_FILES, RANDOM
from benchmarks.workload import (
    PROMPT_TOKENS,
    RESPONSE_TOKENS,
    SHAPES,
    make,
    reward_model_on_frozen_layers,
    saved_models,
)

ROOT = Path(__file__).parents[2]
NOWHERE = Path("nowhere")


@pytest.mark.parametrize(
    "size",
    [
        "tiny",
        pytest.param(
            "gpt2",
            marks=needs_shared(*DATA_FILES),
        ),
    ],
)
def test_the_same_arguments_give_the_same_work_and_its_lengths_are_in_range(size):
    work = make(size, SHARED)
    assert work == make(size, SHARED)
    assert work.prompts != make(size, SHARED, seed=2).prompts
    assert len(set(work.prompts)) == len(work.lengths) == 32
    for words, (low, high) in ((map(len, work.prompts), PROMPT_TOKENS), (work.lengths, RESPONSE_TOKENS)):
        lengths = list(words)
        assert (min(lengths), max(lengths)) == (low, high)
    assert max(map(max, work.prompts)) < SHAPES[size].get("eos_token_id", 50256)
    assert work.optimizer_steps == 32


def test_without_data_the_ids_are_random():
    work = make("gpt2", RANDOM)
    assert work == make("gpt2", RANDOM)
    assert len(set(work.prompts)) == 32
    ids = [token for prompt in work.prompts for token in prompt]
    assert 10_000 < max(ids) < 50_255  # of the whole vocabulary, but for the end token and that which pads


def test_the_work_does_not_depend_on_the_process():
    """Each contender is a process, and hashes of strings differ between processes."""
    code = "import json, pathlib; from benchmarks.workload import make; w = make('tiny', pathlib.Path('nowhere'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(json.dumps([w.prompts, w.lengths]))"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    work = make("tiny", NOWHERE)
    assert json.loads(done.stdout) == [[list(p) for p in work.prompts], list(work.lengths)]


def test_missing_data_are_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere/sst2/train\.tsv.*--data random"):
        make("gpt2", NOWHERE)


def test_the_models_are_made_once(tmp_path):
    work = make("tiny", NOWHERE)
    policy, reward = saved_models(work, tmp_path)
    first = GPT2LMHeadModel.from_pretrained(policy).lm_head.weight
    assert GPT2ForSequenceClassification.from_pretrained(reward).score.weight.shape == (1, 32)
    assert first.dtype == torch.float32
    written = Path(policy, "model.safetensors").stat().st_mtime_ns
    assert saved_models(work, tmp_path) == (policy, reward)
    assert Path(policy, "model.safetensors").stat().st_mtime_ns == written


def test_a_reward_model_on_frozen_layers_differs_from_the_policy_in_its_top_layers_only(tmp_path):
    policy, reward = saved_models(make("tiny", NOWHERE), tmp_path)
    whole = GPT2ForSequenceClassification.from_pretrained(reward).state_dict()
    above = GPT2ForSequenceClassification.from_pretrained(reward_model_on_frozen_layers(policy, reward, 1)).state_dict()
    lower = GPT2LMHeadModel.from_pretrained(policy).state_dict()
    top = f"transformer.h.{SHAPES['tiny']['n_layer'] - 1}."
    own = {name for name in above if name.startswith((top, "transformer.ln_f", "score"))}
    assert own
    assert len(own) < len(above)
    for name, weight in above.items():
        assert weight.equal(whole[name] if name in own else lower[name]), name


def test_the_main_process_does_not_import_torch():
    """The peak memory of a child process starts at that of its parent."""
    code = "import sys, benchmarks.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_only_ours_imports_plaudit():
    """TRL's environment has no plaudit, and the plain loop must not depend on it."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert path.name in ("ours.py", "our_trainers.py") or not [n for n in names if n.startswith("plaudit")], (
            path.name
        )
