"""Text cleaning, content hashes and n-gram diversity.

Rotten Tomatoes sentences, and SST-2 made from them, are lower-case ASCII with spaces around punctuation. IMDb reviews
are web text with HTML breaks and Windows-1252 characters. A small model learns one format faster than two, so
movie-gpt2 was pretrained on IMDb reviews in the format of Rotten Tomatoes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from plaudit.records import Text

# \x84 to \x97 are Windows-1252 characters that were decoded as Latin-1.
_ASCII = {'"': "\x84\x93\x94“”", "'": "\x91\x92´`‘’", " -- ": "\x96\x97–—", " ... ": "\x85"}
_TO_ASCII = str.maketrans({character: ascii for ascii, characters in _ASCII.items() for character in characters})


def normalise(text: str) -> str:
    """`text` in the format of Rotten Tomatoes sentences: lower-case ASCII, spaces around punctuation.

    >>> normalise("It's GREAT!!!<br />See it (twice) - 10/10.")
    "it's great ! see it ( twice ) - 10/10 ."
    """
    text = re.sub(r"<br\s*/?>", " ", text.translate(_TO_ASCII))
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[*_~=^|\\]+", " ", text)
    text = re.sub(r"-{2,}", " -- ", text)
    text = re.sub(r'([.,!?;:()"\[\]])', r" \1 ", text)
    text = re.sub(r"(?<=\d) ([.,:]) (?=\d)", r"\1", text)  # 7.5, 1,000 and 10:30 stay as they are
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"([.!?])(?: \1)+", r"\1", text)
    return text.strip()


def words(text: Text) -> str:
    """A text as it is; a dialogue with one turn a paragraph."""
    return text if isinstance(text, str) else "\n\n".join(f"{turn.role}: {turn.content}" for turn in text)


def content_digest(text: Text) -> bytes:
    """SHA-256 of `text` in lower case, composed (NFC), with single spaces: texts with equal hashes are duplicates."""
    plain = (text if isinstance(text, str) else words(text)).lower()
    if not plain.isascii():
        plain = unicodedata.normalize("NFC", plain)
    return hashlib.sha256(" ".join(plain.split()).encode()).digest()


def content_hash(text: Text) -> str:
    """The digest of the content in hexadecimal digits."""
    return content_digest(text).hex()


def distinct(responses: Sequence[Sequence[int]], n: int) -> float:
    """distinct-n: different n-grams of tokens over all n-grams of all responses. Source: Li et al. 2016."""
    grams = [tuple(r[i : i + n]) for r in responses for i in range(len(r) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
