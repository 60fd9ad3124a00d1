"""Answers of one sentence, by a chat model: prompts without answers, a rule as the reward, and no SFT.

python recipes/questions.py questions.jsonl
plaudit run --model smollm2 --data questions.jsonl --reward examples/one_sentence.py:one_sentence --out runs/sentence
"""

import re


def one_sentence(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for a sentence of 8 to 25 words; less for each further sentence, each word too many or too few, and no end."""
    return [score(response.strip()) for response in responses]


def score(answer: str) -> float:
    """The score of one answer. A line break or a list begins another sentence."""
    sentences = [part for part in re.split(r"(?<=[.!?:])\s+|\n+", answer) if part.strip()]
    words = len(answer.split())
    wrong = max(0, words - 25, 8 - words) / 8 + max(0, len(sentences) - 1) + (not answer.endswith((".", "!", "?")))
    return 1 - min(wrong, 3) / 2
