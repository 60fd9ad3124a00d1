import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny import make_lm
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.config import build
from plaudit.errors import ModelError
from plaudit.evaluation.doctor import check_memory
from plaudit.evaluation.memory import memory_needed
from plaudit.training import dist
from plaudit.training.run import Run
from recipes import rank_memory
from recipes.rank_memory import Shape, formula, llama, shape_of

SHAPE = Shape(outside=100, layer=10, depth=2, width=1, vocabulary=1)  # 120 weights


def test_the_formula_by_hand(monkeypatch):
    monkeypatch.setattr(rank_memory, "TOKENS", 0)  # no activations, logits, keys and values
    whole, divided = formula(SHAPE, "none", 4), formula(SHAPE, "full", 4)
    # Two models of 480 bytes, 480 of gradients, and 960 of moments.
    assert whole == {"models": 960, "update": 2400, "scoring": 1920, "sampling": 1920}
    # A quarter of each; 400 + 2 x 40 bytes gathered, gradients of 400 and 40 and a copy of 400; 400 to receive them.
    assert divided == {
        "models": 240,
        "update": 600 + 480 + 840,
        "scoring": 480 + 480 + 400,
        "sampling": 480 + 480 + 400,
    }
    assert formula(SHAPE, "full", 1) == formula(SHAPE, "none", 1)


def test_activations_are_those_of_the_rows_of_a_process():
    one, four = (formula(SHAPE, "none", n)["update"] for n in (1, 4))
    rows = rank_memory.ROWS * 3 // 4
    per_row = 4 * rank_memory.TOKENS * (rank_memory.KEPT * SHAPE.depth + 4)
    assert one - four == rows * per_row


def test_the_shape_of_a_model_counts_every_weight_once():
    lm = make_lm()
    shape = shape_of(lm)
    assert shape.whole == sum(p.numel() for p in lm.parameters())
    assert shape.layer == sum(p.numel() for p in lm.transformer.h[0].parameters())
    assert (shape.depth, shape.width, shape.vocabulary) == (2, 32, 300)


@pytest.mark.parametrize(("size", "published"), [("1B", 1_235_814_400), ("8B", 8_030_261_248), ("70B", 70_553_706_496)])
def test_the_larger_models_have_the_published_numbers_of_weights(size, published):
    assert llama(size).whole == published


def test_the_page_has_the_table_that_the_command_prints(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rank_memory", "--derived"])
    rank_memory.main()
    printed = capsys.readouterr().out
    page = Path(rank_memory.__file__).parents[1] / "docs" / "scaling.md"
    assert printed in page.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    assert [row[0] for row in rows[2:]] == [str(2**power) for power in range(10)]
    # 8B on 8 GPUs: 3 models in 4 bytes, gradients and moments in 12, all divided; E is 2 x 128,256 x 4,096 + 4,096.
    weights, outside, layer = 8_030_261_248, 1_050_677_248, 218_112_000
    update = (24 * weights / 8 + 4 * (outside + 2 * layer) + 4 * (2 * outside + layer)) / 2**30
    sampling = (20 * weights / 8 + 4 * weights + 4 * outside) / 2**30
    assert rows[5][3] == f"{update:.1f} / {sampling:.1f}"


def llama_8b():
    """A model with the shapes of Llama 3 8B, and no weights."""
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                num_attention_heads=32, num_key_value_heads=8,
            )
        )  # fmt: skip


def run_of(ranks, monkeypatch, **settings):
    monkeypatch.setattr(dist, "size", lambda: ranks)
    everything = {f"{stage}.train_layers": 0 for stage in ("sft", "reward_model", "ppo")}
    return Run(Path("nowhere"), build(everything | {"device": "cpu"} | settings))


@pytest.mark.parametrize(("ranks", "strategy"), [(1, "none"), (8, "none"), (2, "full"), (8, "full"), (64, "full")])
def test_the_prediction_of_a_run_has_room_for_the_formula(ranks, strategy, monkeypatch):
    """It is at most 1.6 times as much, or a model and its file: the recipe does not open or save models."""
    lm = llama_8b()
    needed = memory_needed(run_of(ranks, monkeypatch, sharding=strategy), lm, prompt=8)
    shape = shape_of(lm)
    largest = max(formula(shape, strategy, ranks, frozen=2).values())
    assert largest < needed < max(1.6 * largest, 2.1 * 4 * shape.whole)


@pytest.mark.parametrize(("ranks", "strategy"), [(1, "none"), (8, "none"), (8, "full")])
def test_a_divided_model_is_not_refused_where_its_shares_fit(ranks, strategy, monkeypatch):
    monkeypatch.setattr("plaudit.training.memory.free", lambda device: 80 * 2**30)
    run = run_of(ranks, monkeypatch, sharding=strategy)
    refused = nullcontext() if strategy == "full" else pytest.raises(ModelError, match="GiB needed at most, 80")
    with refused:
        check_memory(run, ("sft", "reward_model", "ppo"), llama_8b(), 8)


def test_a_process_needs_memory_for_its_rows(monkeypatch):
    names = [f"{stage}.batch_size" for stage in ("sft", "reward_model", "ppo")] + ["ppo.minibatch_size"]
    whole = {f"{stage}.microbatch_size": 0 for stage in ("sft", "reward_model", "ppo")}
    lm = make_lm()
    one, four, small = (
        memory_needed(run_of(ranks, monkeypatch, **whole, **dict.fromkeys(names, rows)), lm, prompt=8)
        for ranks, rows in ((1, 1024), (4, 4096), (4, 1024))
    )
    assert one == four
    assert small < one / 2
