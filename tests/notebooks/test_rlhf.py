"""The exercises of notebook 3 accept the answers that the notebook gives, and reject others."""

import re
from pathlib import Path

import pytest
import torch

from plaudit.evaluation.best_of_n import kl_bound
from plaudit.lesson.exercises import check
from plaudit.maths.advantages import gae
from plaudit.maths.kl import kl_full
from plaudit.maths.losses import policy_loss

SOURCE = (Path(__file__).parents[2] / "notebooks" / "3-RLHF.py").read_text(encoding="utf-8")
CORRECT = {
    "kl_policy_reference": "0.511",
    "kl_reference_policy": "0.368",
    "with_lam_1": "[1.5, 1.5, 1.5]",
    "with_lam_0": "[0, 0, 1.5]",
    "token_objective": "-1.6",
    "token_has_gradient": "False",
    "your_kl_coef": "0.455",
    "draws": "148",
}
WRONG = {
    "kl_policy_reference": "0.368",
    "kl_reference_policy": "0.511",
    "with_lam_1": "[1.5, 1.5, 1.0]",
    "with_lam_0": "[1.5, 0, 0]",
    "token_objective": "-1.5",
    "token_has_gradient": "True",
    "your_kl_coef": "0.6",
    "draws": "147",
}


@pytest.fixture(scope="module")
def cells():
    """The code cells of the exercises, in order."""
    found = re.split(r"^# %%.*\n", SOURCE.partition("# ## Exercises")[2], flags=re.M)
    return [cell for cell in found if not cell.lstrip().startswith("#")]


def output(cells, answers, capsys):
    names = {"check": check, "torch": torch, "kl_full": kl_full, "gae": gae, "kl_bound": kl_bound}
    names["policy_loss"] = policy_loss
    exec(re.search(r"^def loss_of\(.*?(?=^\S(?!ef))", SOURCE, flags=re.M | re.S).group(), names)
    for cell in cells:
        for name, answer in answers.items():
            cell = re.sub(rf"^{name} = None", f"{name} = {answer}", cell, flags=re.M)
        exec(cell, names)
    return capsys.readouterr().out.splitlines()


def test_the_answers_of_the_notebook_are_correct(cells, capsys):
    assert {name for name in CORRECT if f"{name} = None" in "".join(cells)} == CORRECT.keys()
    assert output(cells, {}, capsys) == ["No answer yet: replace None with your answer."] * len(CORRECT)
    assert output(cells, CORRECT, capsys) == ["Correct."] * len(CORRECT)


def test_wrong_answers_are_rejected(cells, capsys):
    assert all(line.startswith("Not correct") for line in output(cells, WRONG, capsys))
