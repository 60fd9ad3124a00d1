"""Responses of about twelve words: a reward that needs no labels and no reward model.

plaudit run --reward examples/length_target.py:twelve_words --out runs/length

RESULT
"""


def twelve_words(prompts: list[str], responses: list[str]) -> list[float]:
    """0 for a response of twelve words, and minus the distance in words otherwise."""
    return [-abs(len(response.split()) - 12) for response in responses]
