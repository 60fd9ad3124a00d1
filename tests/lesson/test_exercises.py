import pytest
import torch

from plaudit.lesson.exercises import check


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(0.511, 0.5108), (2, torch.tensor(2.0)), ([1.5, 0], torch.tensor([1.5, 0.0])), (True, True), (" Eos ", "eos")],
)
def test_correct_answers(answer, expected):
    assert check(answer, expected) == "Correct."


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        (None, 1.0, "No answer yet: replace None with your answer."),
        (0.52, 0.511, "Not correct."),
        ([1.5, 0.1, 3.0], [1.5, 0.0, 2.0], "Not correct: number 2 is wrong."),
        (1.5, [1.5, 0.0], "Not correct: the answer is a list of 2 numbers."),
        ([1.5], 1.5, "Not correct: the answer is one number."),
        ("many", 3, "Not correct: the answer is one number."),
        (..., 3, "Not correct: the answer is one number."),
        (float("nan"), 3, "Not correct."),
        (False, True, "Not correct."),
        (1, True, "Not correct."),
        ("bos", "eos", "Not correct."),
    ],
)
def test_other_answers(answer, expected, message):
    assert check(answer, expected) == message


def test_tolerance():
    assert check(1.4, 1.5, tolerance=0.2) == "Correct."
    assert check(1.4, 1.5) == "Not correct."
