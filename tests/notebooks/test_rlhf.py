"""The exercises of notebook 3 accept the answers that it gives, and nothing else; no training is needed for them."""

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from plaudit.evaluation.best_of_n import kl_bound
from plaudit.lesson.exercises import check
from plaudit.maths.advantages import gae
from plaudit.maths.kl import kl_full
from plaudit.maths.losses import policy_loss

SOURCE = Path(__file__).parents[2] / "notebooks" / "3-RLHF.py"
ANSWERS = {
    "policy_from_reference": "0.511",
    "reference_from_policy": "0.368",
    "with_lam_1": "[1.5, 1.5, 1.5]",
    "with_lam_0": "[0, 0, 1.5]",
    "its_part": "-1.6",
    "has_a_gradient": "False",
    "that_kl_coef": "0.455",
    "draws": "148",
}


@pytest.fixture(scope="module")
def cells():
    """The code cells of the exercises, in order."""
    text = SOURCE.read_text(encoding="utf-8").partition("# ## Exercises")[2]
    return [cell for cell in re.split(r"^# %%.*\n", text, flags=re.M) if not cell.lstrip().startswith("#")]


def said(cells, answers, capsys):
    names = {"check": check, "torch": torch, "kl_full": kl_full, "gae": gae, "kl_bound": kl_bound}
    names |= {"policy_loss": policy_loss, "assert_close": assert_close}
    definition = re.search(r"^def loss_of\(.*?(?=^\S(?!ef))", SOURCE.read_text(encoding="utf-8"), flags=re.M | re.S)
    exec(definition.group(), names)
    for cell in cells:
        for name, answer in answers.items():
            cell = re.sub(rf"^{name} = None", f"{name} = {answer}", cell, flags=re.M)
        exec(cell, names)
    return capsys.readouterr().out.split("\n")[:-1]


def test_every_question_is_open_at_first_and_its_answer_is_right(cells, capsys):
    assert len(cells) == 5
    text = "".join(cells)
    assert {name for name in ANSWERS if f"{name} = None" in text} == ANSWERS.keys()
    assert said(cells, {}, capsys) == ["No answer yet: put yours in the place of None."] * len(ANSWERS)
    assert said(cells, ANSWERS, capsys) == ["Right."] * len(ANSWERS)


def test_wrong_answers_are_not_accepted(cells, capsys):
    wrong = {"with_lam_1": "[1.5, 1.5, 1.0]", "with_lam_0": "[1.5, 0, 0]", "has_a_gradient": "True", "draws": "147"}
    wrong |= {"policy_from_reference": "0.368", "reference_from_policy": "0.511", "its_part": "-1.5"}
    assert all(line.startswith("Not yet") for line in said(cells, wrong | {"that_kl_coef": "0.6"}, capsys))
