"""The exercises accept the answers that the notebooks give, and reject others. All imports of the notebooks exist."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from plaudit.records import Demonstration

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# notebook: {variable: (correct answer, wrong answer)}
ANSWERS = {
    "1-SFT": {
        "your_loss": ("1.386", "4.159"),
        "your_perplexity": ("4", "3"),
        "uniform_perplexity": ("300", "299"),
        "missing": ("32", "0"),
        "at_one": ("0.731", "0.5"),
        "at_half": ("0.881", "0.731"),
    },
    "2-RM-Training": {
        "your_probability": ("0.750", "0.786"),
        "lowest_loss": ("0.693", "0"),
        "best_difference": ("0", "1"),
        "majority_correct": ("0.896", "0.8"),
        "excludes_80": ("False", "True"),
        "lower_end": ("0.767", "0.78"),
    },
    "3-RLHF": {
        "kl_policy_reference": ("0.511", "0.368"),
        "kl_reference_policy": ("0.368", "0.511"),
        "with_lam_1": ("[1.5, 1.5, 1.5]", "[1.5, 1.5, 1.0]"),
        "with_lam_0": ("[0, 0, 1.5]", "[1.5, 0, 0]"),
        "token_objective": ("-1.6", "-1.5"),
        "token_has_gradient": ("False", "True"),
        "your_kl_coef": ("0.455", "0.6"),
        "draws": ("148", "147"),
    },
    "4-Feedback": {
        "bias": ("0.405", "0.6"),
        "excludes_half": ("False", "True"),
        "lowest_share": ("0.397", "0.7"),
        "two_agree": ("0.6", "0.625"),
        "with_the_others": ("0.75", "0.6"),
        "highest": ("0.8", "0.68"),
        "right_about_one": ("0.70", "0.675"),
        "best_difference": ("1.609", "0.833"),
    },
    "5-Methods": {
        "with_rloo": ("[2.667, 0, -1.333, -1.333]", "[2, 0, -1, -1]"),
        "with_grpo": ("[2, 0, -1, -1]", "[2.667, 0, -1.333, -1.333]"),
        "largest_weights": ("[1.225, 1.225]", "[1.225, 0.122]"),
        "share_without": ("0.656", "0.344"),
        "exact_gradient": ("0.347", "0.3"),
        "with_k1": ("0", "0.347"),
        "with_k3": ("0.3", "0.347"),
        "difference": ("0.896", "1.792"),
        "share_of_people": ("0.710", "0.5"),
        "of_two": ("[0.25, 0.39, 0.36]", "[0.25, 0.51, 0.24]"),
        "kl_of_two": ("0.141", "0.193"),
    },
}


@pytest.fixture(params=ANSWERS)
def notebook(request):
    return request.param


@pytest.fixture
def results(notebook, tiny_tokenizer, capsys):
    """results(answers): what the exercises of a notebook print if the reader gives these answers."""
    source = (NOTEBOOKS / f"{notebook}.py").read_text(encoding="utf-8")
    cells = re.split(r"^# %%.*\n", source.partition("# ## Exercises")[2], flags=re.M)
    definitions = [
        node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)
    ]

    def run(answers):
        names = {
            "tokenizer": tiny_tokenizer,
            "base": SimpleNamespace(config=SimpleNamespace(vocab_size=300)),
            "data": SimpleNamespace(train=SimpleNamespace(demonstrations=[Demonstration("", "a joy")] * 40)),
        }
        exec(compile(ast.Module(definitions, []), notebook, "exec"), names)
        for cell in cells:
            if "check(" in cell:
                for name, answer in answers.items():
                    cell = re.sub(rf"^{name} = None", f"{name} = {answer}", cell, flags=re.M)
                exec(cell, names)
        return capsys.readouterr().out.splitlines()

    return run


def test_the_answers_of_the_notebook_are_correct(notebook, results):
    answers = {name: correct for name, (correct, _) in ANSWERS[notebook].items()}
    assert results({}) == ["No answer yet: replace None with your answer."] * len(answers)
    assert results(answers) == ["Correct."] * len(answers)


def test_wrong_answers_are_rejected(notebook, results):
    lines = results({name: wrong for name, (_, wrong) in ANSWERS[notebook].items()})
    assert len(lines) == len(ANSWERS[notebook])
    assert all(line.startswith("Not correct") for line in lines)
