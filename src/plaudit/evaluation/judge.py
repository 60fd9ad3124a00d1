"""The independent judge: other data, another architecture, never shown to training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from plaudit.data.text import normalise
from plaudit.records import LabelledText

IMDB_JUDGE = Path(__file__).with_name("imdb_judge.safetensors")


@lru_cache(maxsize=1)
def imdb_judge() -> Judge:
    """The judge that recipes/imdb_judge.py trained on IMDb reviews."""
    return Judge.load(IMDB_JUDGE)


def vectorizer(terms: Sequence[str] | None = None) -> TfidfVectorizer:
    """TF-IDF of words and word pairs: of these, or of those that ten texts or more will have."""
    return TfidfVectorizer(
        token_pattern=r"[a-z0-9'-]+|[!?]",
        ngram_range=(1, 2),
        min_df=10 if terms is None else 1,
        sublinear_tf=True,
        dtype=np.float32,
        vocabulary=terms,
    )


class Judge:
    """TF-IDF of words and word pairs with logistic regression.

    Attributes:
        accuracy_imdb: share of held-out IMDb reviews that it labels as their authors did.
    """

    def __init__(
        self, terms: Sequence[str], idf: np.ndarray, weights: np.ndarray, bias: float, accuracy_imdb: float = np.nan
    ) -> None:
        """A judge of V words and word pairs, with their (V,) inverse document frequencies and (V,) weights."""
        self._terms, self._weights, self._bias = terms, weights, bias
        self._tfidf = vectorizer(terms)
        self._tfidf.idf_ = idf
        self.accuracy_imdb = accuracy_imdb

    @classmethod
    def load(cls, path: Path) -> Judge:
        """The judge that `save` left."""
        with safe_open(path, "numpy") as file:
            terms = file.get_tensor("terms").tobytes().decode().split("\n")
            idf, weights = file.get_tensor("idf"), file.get_tensor("weights")
            known = file.metadata()
        return cls(terms, idf, weights, float(known["bias"]), float(known["accuracy_imdb"]))

    def save(self, path: Path) -> None:
        """Write it as numbers and plain text."""
        tensors = {
            "terms": np.frombuffer("\n".join(self._terms).encode(), np.uint8),
            "idf": self._tfidf.idf_,
            "weights": self._weights,
        }
        save_file(tensors, path, {"bias": str(self._bias), "accuracy_imdb": str(self.accuracy_imdb)})

    def positive(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) probability that each text is positive."""
        logits = self._tfidf.transform([normalise(t) for t in texts]) @ self._weights + self._bias
        return 1 / (1 + np.exp(-logits))

    def accuracy(self, texts: Sequence[LabelledText]) -> float:
        """Share of labelled texts on which it agrees with the label."""
        labels = np.array([t.label for t in texts])
        return float(((self.positive([t.text for t in texts]) > 0.5) == labels).mean())
