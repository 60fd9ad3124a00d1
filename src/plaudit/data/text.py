"""Text cleaning: one spelling of a film review for every corpus we learn from.

Rotten Tomatoes sentences (and SST-2, cut from them) are lower-case with detached punctuation;
IMDb reviews are ordinary web text with HTML breaks and Windows-1252 debris. A small model learns
one spelling faster than two, so pretraining reads IMDb in the spelling of the task.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

_ODD_CHARACTERS = str.maketrans(
    {
        "\x84": '"',
        "\x85": " ... ",
        "\x91": "'",
        "\x92": "'",
        "\x93": '"',
        "\x94": '"',
        "\x96": " -- ",
        "\x97": " -- ",
        "´": "'",
        "`": "'",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "–": " -- ",
        "—": " -- ",
    }
)


def normalise(text: str) -> str:
    """`text` in the spelling of Rotten Tomatoes: lower-case ASCII, punctuation set apart.

    >>> normalise("It's GREAT!!!<br />See it (twice) - 10/10.")
    "it's great ! see it ( twice ) - 10/10 ."
    """
    text = re.sub(r"<br\s*/?>", " ", text.translate(_ODD_CHARACTERS))
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[*_~=^|\\]+", " ", text)
    text = re.sub(r"-{2,}", " -- ", text)
    text = re.sub(r'([.,!?;:()"\[\]])', r" \1 ", text)
    text = re.sub(r"(?<=\d) ([.,:]) (?=\d)", r"\1", text)  # 7.5 and 1,000 and 10:30 stay whole
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"([.!?])(?: \1)+", r"\1", text)
    return text.strip()


def content_hash(text: str) -> str:
    """SHA-256 of `text` with case and spacing folded: the identity that splits and deduplication use."""
    return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()


def distinct(responses: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams of tokens as a share of all of them, over all responses. Source: Li et al. 2016."""
    grams = [tuple(r[i : i + n]) for r in responses for i in range(len(r) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
