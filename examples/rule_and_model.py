"""A rule and the reward model: praise, but without the words that praise is made of too easily.

plaudit run --reward model=1 --reward examples/rule_and_model.py:fresh=2 --out runs/rule

RESULT
"""

WORN = {"best", "film", "funny", "good", "great", "movie", "very"}


def fresh(prompts: list[str], responses: list[str]) -> list[float]:
    """Minus the share of worn words in each response."""
    words = [response.lower().split() for response in responses]
    return [-sum(word in WORN for word in each) / max(1, len(each)) for each in words]
