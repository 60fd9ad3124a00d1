"""A rule beside the reward model: praise, in words that do not repeat.

plaudit run --reward model=1 --reward examples/rule_and_model.py:varied=4 --out runs/varied

RESULT
"""


def varied(prompts: list[str], responses: list[str]) -> list[float]:
    """The share of the words of each response that are not repetitions."""
    words = [response.lower().split() for response in responses]
    return [len(set(each)) / max(1, len(each)) for each in words]
