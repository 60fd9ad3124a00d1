"""A rule beside the reward model: praise, in words that do not repeat.

plaudit run --reward model=1 --reward examples/rule_and_model.py:varied=4 --out runs/varied

It printed: PPO raised the mean score from 3.64 to 9.15 [8.85, 9.43] at 4.5 nats of KL. An independent judge calls 97 %
of the responses positive, 61 % before. The logit of the reward model rose from -0.04 to 5.50, and the share of words
that are not repetitions stayed: 0.92 before, 0.91 after.
"""


def varied(prompts: list[str], responses: list[str]) -> list[float]:
    """The share of the words of each response that are not repetitions."""
    words = [response.lower().split() for response in responses]
    return [len(set(each)) / max(1, len(each)) for each in words]
