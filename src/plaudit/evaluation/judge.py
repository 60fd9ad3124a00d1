"""The independent judge: a sentiment classifier of another kind, trained on other data; training never uses it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer

from plaudit.data.corpus import BUILT_IN
from plaudit.data.splits import Splits
from plaudit.data.text import normalise
from plaudit.maths.preferences import wilson
from plaudit.records import LabelledText

_MOST_TEXTS = 1000  # on which its fit is measured
IMDB_JUDGE = Path(__file__).with_name("imdb_judge.safetensors")


@lru_cache(maxsize=1)
def imdb_judge() -> Judge:
    """The judge in this package, which recipes/imdb_judge.py trains on IMDb reviews."""
    return Judge.load(IMDB_JUDGE)


def judge_for(data: Splits) -> tuple[Judge | None, str]:
    """The judge of film reviews if it fits the data; otherwise None, and the reason.

    It fits the built-in data, and data on whose labelled held-out texts it is better than guessing for either label:
    the 95% interval of its accuracy lies above one half for the positive texts, and for the negative ones.
    """
    judge = imdb_judge()
    if data.name in BUILT_IN:
        return judge, ""
    labelled = data.evaluation.labelled[:_MOST_TEXTS]
    if not labelled:
        return None, "the judge reads film reviews, and the data has no labelled held-out texts to test it on"
    right = (judge.positive([t.text for t in labelled]) > 0.5) == [t.label for t in labelled]
    for label, word in enumerate(("negative", "positive")):
        of_label = right[[t.label == label for t in labelled]]
        if not len(of_label) or wilson(int(of_label.sum()), len(of_label))[0] <= 0.5:
            found = f"it is right about {of_label.sum()} of {len(of_label)} {word} held-out texts"
            return None, f"the judge reads film reviews and does not fit the data: {found}"
    return judge, ""


def vectorizer(terms: Sequence[str] | None = None) -> TfidfVectorizer:
    """TF-IDF of words and word pairs: of `terms`, or by default of those that occur in ten texts or more."""
    return TfidfVectorizer(
        token_pattern=r"[a-z0-9'-]+|[!?]",
        ngram_range=(1, 2),
        min_df=10 if terms is None else 1,
        sublinear_tf=True,
        dtype=np.float32,
        vocabulary=terms,
    )


class Judge:
    """Logistic regression on TF-IDF of words and word pairs."""

    def __init__(
        self, terms: Sequence[str], idf: np.ndarray, weights: np.ndarray, bias: float, accuracy_imdb: float = np.nan
    ) -> None:
        """A judge of V words and word pairs, with their inverse document frequencies (V,) and weights (V,)."""
        self._terms, self._weights, self._bias = terms, weights, bias
        self._tfidf = vectorizer(terms)
        self._tfidf.idf_ = idf
        self.accuracy_imdb = accuracy_imdb  # share of held-out IMDb reviews whose label it predicts

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Read a judge that `save` wrote."""
        with safe_open(path, "numpy") as file:
            terms = file.get_tensor("terms").tobytes().decode().split("\n")
            idf, weights = file.get_tensor("idf"), file.get_tensor("weights")
            metadata = file.metadata()
        return cls(terms, idf, weights, float(metadata["bias"]), float(metadata["accuracy_imdb"]))

    def save(self, path: Path) -> None:
        """Write the judge as one safetensors file."""
        tensors = {
            "terms": np.frombuffer("\n".join(self._terms).encode(), np.uint8),
            "idf": self._tfidf.idf_,
            "weights": self._weights,
        }
        save_file(tensors, path, {"bias": str(self._bias), "accuracy_imdb": str(self.accuracy_imdb)})

    def positive(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) probability that each text is positive."""
        return expit(self._tfidf.transform([normalise(t) for t in texts]) @ self._weights + self._bias)

    def accuracy(self, texts: Sequence[LabelledText]) -> float:
        """Share of labelled texts whose label it predicts."""
        labels = np.array([t.label for t in texts])
        return float(((self.positive([t.text for t in texts]) > 0.5) == labels).mean())
