import pytest
import torch

from plaudit.lesson.exercises import check


@pytest.mark.parametrize(
    ("answer", "right"),
    [(0.511, 0.5108), (2, torch.tensor(2.0)), ([1.5, 0], torch.tensor([1.5, 0.0])), (True, True), (" Eos ", "eos")],
)
def test_right_answers(answer, right):
    assert check(answer, right) == "Right."


@pytest.mark.parametrize(
    ("answer", "right", "said"),
    [
        (None, 1.0, "No answer yet"),
        (0.52, 0.511, "Not yet."),
        ([1.5, 0.1, 3.0], [1.5, 0.0, 2.0], "number 2 is off"),
        (1.5, [1.5, 0.0], "a list of 2 numbers is asked for"),
        ([1.5], 1.5, "one number is asked for"),
        ("many", 3, "one number is asked for"),
        (float("nan"), 3, "Not yet"),
        (False, True, "Not yet."),
        (1, True, "Not yet."),
        ("bos", "eos", "Not yet."),
    ],
)
def test_others_are_told_what_is_missing(answer, right, said):
    assert said in check(answer, right)


def test_the_tolerance_can_be_set():
    assert check(1.4, 1.5, tolerance=0.2) == "Right."
    assert check(1.4, 1.5) == "Not yet."
