"""What trivial rules make of judgements: a reward model that is no better has not learned what people value.

Each rule gives every text a score, as a reward model does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from plaudit.data.judgements import Judgement
from plaudit.maths.preferences import differences, pairs_of_texts, rightness
from plaudit.records import transcript

_MOST = 50_000  # judgements that the bag of words learns from: more take minutes and hardly change it
_MOST_WORDS = 50_000


def trivial_rules(train: Sequence[Judgement], held_out: Sequence[Judgement]) -> dict[str, np.ndarray]:
    """By the name of each rule, the shares of the held-out judgements (M,) about which it is right, ties left out.

    Labels: the more frequent label, and a bag of words. Comparisons and rankings: the longer response, the response
    that was shown first, and a bag of words. The order is no rule where it is the judgement itself: in rankings, and in
    data that always lists the preferred response first.
    """
    sizes = [len(judgement.texts) for judgement in held_out]
    weights = np.array([judgement.weight for judgement in held_out])
    scores = {"bag of words": _bag_of_words(train[:_MOST], held_out)}
    if max(sizes) == 1:
        clear = [judgement.weight > 0.5 for judgement in train if judgement.weight != 0.5]
        scores["the more frequent label"] = np.full(len(sizes), 1.0 if 2 * sum(clear) >= len(clear) else -1.0)
    else:
        lengths = np.array([len(transcript(text)) for judgement in held_out for text in judgement.texts], dtype=float)
        scores |= {"longer wins": lengths, "shorter wins": -lengths}
        compared = [judgement for judgement in train if len(judgement.texts) == 2]
        if len(compared) == len(train) and any(judgement.weight < 0.5 for judgement in compared):
            # Half right where people saw the two in different orders.
            scores["first wins"] = np.array([s for j in held_out for s in (float(j.in_order), 0.0)])
    found = {}
    for name, of_texts in scores.items():
        gaps, judgement_of = differences(of_texts, sizes)
        found[name] = rightness(gaps, weights[judgement_of], judgement_of)
    return found


def _bag_of_words(train: Sequence[Judgement], held_out: Sequence[Judgement]) -> np.ndarray:
    """(M,) a score of each held-out text: logistic regression on TF-IDF of words, of differences for comparisons."""
    texts, held_texts = (
        [transcript(text) for judgement in some for text in judgement.texts] for some in (train, held_out)
    )
    if not any(map(str.strip, texts)):
        return np.zeros(len(held_texts))
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True, max_features=_MOST_WORDS)
    x = vectorizer.fit_transform(texts)
    labels, weight = len(train[0].texts) == 1, np.array([judgement.weight for judgement in train])
    importance = np.ones(len(train))
    if not labels:
        pairs, judgement_of = pairs_of_texts([len(judgement.texts) for judgement in train])
        x, weight = x[pairs[:, 0]] - x[pairs[:, 1]], weight[judgement_of]
        importance = 1 / np.bincount(judgement_of)[judgement_of]  # each ranking counts once, however long it is
    # A soft label is the label 1 with its weight, and the label 0 with the rest.
    model = LogisticRegression(fit_intercept=labels, max_iter=1000)
    target = np.repeat([1, 0], len(weight))
    model.fit(vstack([x, x]), target, sample_weight=np.r_[importance * weight, importance * (1 - weight)])
    return vectorizer.transform(held_texts) @ model.coef_[0] + model.intercept_[0]
