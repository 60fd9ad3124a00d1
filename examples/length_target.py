"""Responses of about twelve words: a reward that needs no labels and no reward model.

plaudit run --reward examples/length_target.py:twelve_words --out runs/length

It printed, after SFT and 36 iterations: PPO raised the mean score from −7.03 to −3.92 [−4.29, −3.56] at 1.3 nats of KL.
The responses are 16 tokens long, 19 before.
"""


def twelve_words(prompts: list[str], responses: list[str]) -> list[float]:
    """0 for a response of twelve words, and minus the distance in words otherwise."""
    return [-abs(len(response.split()) - 12) for response in responses]
