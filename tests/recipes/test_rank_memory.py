import sys
from pathlib import Path

import pytest
from tiny import make_lm

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
