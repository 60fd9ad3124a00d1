"""Answers of one sentence, by a chat model: prompts without answers, a rule as the reward, and no SFT.

python recipes/questions.py questions.jsonl
plaudit run --model smollm2 --data questions.jsonl --reward examples/one_sentence.py:one_sentence --out runs/sentence

docs/chat.md has settings, figures and answers before and after.
"""

import re

FRAME = "human assistant what people like would explain child best thing about tell something where look"


def one_sentence(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for a sentence of 8 to 25 words that names what was asked about; half a point less for each thing wrong."""
    return [
        1 - min(wrong(prompt, response.strip()), 3) / 2 for prompt, response in zip(prompts, responses, strict=True)
    ]


def wrong(prompt: str, answer: str) -> float:
    """Further sentences (a line break begins one), words too many or too few by 8, no full stop, another subject."""
    sentences = [part for part in re.split(r"(?<=[.!?:])\s+|\n+", answer) if part]
    words = len(answer.split())
    subjects = set(re.findall(r"[a-z]{4,}", prompt.lower())) - set(FRAME.split())
    is_named = any(subject.rstrip("s") in answer.lower() for subject in subjects)
    length = max(0, words - 25, 8 - words) / 8
    return length + max(0, len(sentences) - 1) + (not answer.endswith((".", "!"))) + (not is_named)
