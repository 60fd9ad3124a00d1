"""Exercises that check the reader's answer."""

import numpy as np


def check(answer: object, expected: object, tolerance: float = 5e-3) -> str:
    """One line that says whether an answer is correct: a number, a list of numbers, a text or a boolean.

    None means that there is no answer yet. The tolerance is the largest absolute difference between numbers.
    """
    if answer is None:
        return "No answer yet: replace None with your answer."
    if isinstance(answer, str) and isinstance(expected, str):
        answer, expected = answer.strip().lower() == expected.strip().lower(), True
    if isinstance(expected, (str, bool)):
        return "Correct." if type(answer) is type(expected) and answer == expected else "Not correct."
    wanted = np.asarray(expected, dtype=np.float64)
    try:
        given = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        given = None
    if given is None or given.shape != wanted.shape:
        return f"Not correct: the answer is {f'a list of {wanted.size} numbers' if wanted.ndim else 'one number'}."
    wrong = np.flatnonzero(~np.isclose(given, wanted, rtol=0, atol=tolerance))
    if not len(wrong):
        return "Correct."
    return f"Not correct: number {wrong[0] + 1} is wrong." if wanted.ndim else "Not correct."
