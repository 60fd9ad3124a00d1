"""The independent judge: other data, another architecture, never shown to training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from plaudit.data.embedded import imdb
from plaudit.data.text import content_hash, normalise
from plaudit.records import LabelledText

_HELD_OUT = 10  # one review in ten measures the judge


@lru_cache(maxsize=1)
def imdb_judge() -> Judge:
    """The judge, trained once a process: it takes some ten seconds."""
    return Judge()


class Judge:
    """TF-IDF of words and word pairs with logistic regression, trained on IMDb reviews.

    Attributes:
        accuracy_imdb: share of held-out IMDb reviews that it labels as their authors did.
    """

    def __init__(self) -> None:
        reviews = imdb()
        held_out = [r for r in reviews if int(content_hash(r.text), 16) % _HELD_OUT == 0]
        train = [r for r in reviews if int(content_hash(r.text), 16) % _HELD_OUT != 0]
        self._pipeline: Pipeline = make_pipeline(
            TfidfVectorizer(
                token_pattern=r"[a-z0-9'-]+|[!?]",
                ngram_range=(1, 2),
                min_df=10,
                sublinear_tf=True,
                dtype=np.float32,
            ),
            LogisticRegression(C=10.0, max_iter=200),
        )
        self._pipeline.fit([r.text for r in train], [r.label for r in train])
        self.accuracy_imdb = self.accuracy(held_out)

    def positive(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) probability that each text is positive."""
        return self._pipeline.predict_proba([normalise(t) for t in texts])[:, 1]

    def accuracy(self, texts: Sequence[LabelledText]) -> float:
        """Share of labelled texts on which it agrees with the label."""
        labels = np.array([t.label for t in texts])
        return float(((self.positive([t.text for t in texts]) > 0.5) == labels).mean())
