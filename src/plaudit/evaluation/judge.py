"""The independent judge: a classifier of another kind, made from other data; training never uses it.

It fits the task or is absent: the judge of film reviews in this package where it is right about the data's own labels,
otherwise one fitted on labels or comparisons that the reward model never saw, or what the user names.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from plaudit.data.corpus import BUILT_IN
from plaudit.data.splits import Part, Splits
from plaudit.data.text import normalise
from plaudit.errors import RewardError
from plaudit.maths.preferences import wilson
from plaudit.models.classifier import Classifier
from plaudit.records import Comparison, LabelledText, Text
from plaudit.rewards.functions import UserFunction, named
from plaudit.rewards.sources import Source, load_function

_AT_ONCE = 128  # responses in one call of a function, which has the time limit of a batch
_MOST_TEXTS = 1000  # on which its fit is measured
_MOST_FITTED, _FEWEST = 5000, 8  # judgements to fit one on: at most, and at least of each label
IMDB_JUDGE = Path(__file__).with_name("imdb_judge.safetensors")


@dataclass(frozen=True)
class Judge:
    """What reads the responses, and how far it can be trusted."""

    name: str  # film, fitted, or as the user gave it
    domain: str  # what it was made for, in words
    reads: Callable[[Sequence[str], Sequence[str]], np.ndarray]  # responses, prompts -> (N,) probability of positive
    accuracy: dict[str, float | int] = field(default_factory=dict)  # shares that it is right about, and of how many

    def positive(self, texts: Sequence[str], prompts: Sequence[str] = ()) -> np.ndarray:
        """(N,) probability that each response is positive."""
        return self.reads(texts, prompts)

    @property
    def meta(self) -> dict[str, Any]:
        """For evaluation.json."""
        return {"name": self.name, "domain": self.domain, **self.accuracy}


def judge_for(data: Splits, wanted: str = "auto", timeout: float = 0.0) -> tuple[Judge | None, str]:
    """The judge of responses, as the setting `judge` says; None and the reason where there is none.

    The film judge fits the built-in data, and data on whose labelled held-out texts it is better than guessing for
    either label: the 95% interval of its accuracy lies above one half for the positive texts, and for the negative
    ones. A fitted judge is held to the same, or to an accuracy above one half on the held-out comparisons.

    Args:
        wanted: auto, film, none, a function as FILE.py:NAME, or a classifier as FOLDER or FOLDER:LABEL.
        timeout: as for `open_judge`.

    Raises:
        RewardError, ModelError: as for `open_judge`.
    """
    if wanted == "none":
        return None, "judge = none"
    if wanted not in ("auto", "film"):
        judge = open_judge(wanted, timeout)
        labelled = [t for t in data.evaluation.labelled if t.label != 0.5]
        if labelled:
            texts, prompts = [plain(t.text) for t in labelled], [plain(t.prompt) for t in labelled]
            right = (judge.positive(texts, prompts) > 0.5) == [t.label > 0.5 for t in labelled]
            judge.accuracy.update(accuracy_task=float(right.mean()), held_out=len(labelled))
        return judge, ""
    film, no_film = _film(data)
    if wanted == "film":
        return film, ""
    if film and not no_film:
        return film, ""
    fitted, no_fitted = _fitted(data)
    return fitted, "" if fitted else f"{no_film}; {no_fitted}"


def open_judge(wanted: str, timeout: float = 0.0) -> Judge:
    """The judge that the user names: a function in a file, or a sequence classifier.

    A function takes responses, or prompts and responses, and returns for each a number from 0 to 1 (or True or False);
    above 0.5 is positive. A classifier reads the response alone.

    Args:
        timeout: seconds for one call of a function, with up to 128 responses; 0: no limit.

    Raises:
        RewardError: the function cannot be opened, raises, does not return in time, or returns something else.
        ModelError: there is no such classifier, or it has several labels and none of them is named.
    """
    source = Source(wanted)
    if (file := source.file) is None:
        classifier = Classifier(*source.classifier)

        def reads(texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
            return expit(np.array(classifier([""] * len(texts), [text.strip() for text in texts]), dtype=float))

        return Judge(source.title, f"the classifier {source.title}", reads)
    function = load_function(file, wanted.rpartition(":")[2])
    name = f"judge '{source.title}'"
    alone = sum(p.default is p.empty for p in inspect.signature(function).parameters.values()) == 1
    # With `wraps`, errors name the line of the user's function.
    of_responses = functools.wraps(function)(lambda prompts, texts: function(texts))
    called = UserFunction(of_responses if alone else function, name, timeout)

    def calls(texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        rows = list(zip(list(prompts) or [""] * len(texts), texts, strict=True))
        batches = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
        found = [number for batch in batches for number in called(batch)]
        for number, row in zip(found, rows, strict=True):
            if not 0 <= number <= 1:
                must = "must return a number from 0 to 1 for each response"
                raise RewardError(f"{name}: {must}, not {number:g} {named(*row)}")
        return np.array(found)

    return Judge(source.title, f"the function {source.title}", calls)


@lru_cache(maxsize=1)
def imdb_judge() -> FilmJudge:
    """The judge in this package, which recipes/imdb_judge.py trains on IMDb reviews."""
    return FilmJudge.load(IMDB_JUDGE)


def _film(data: Splits) -> tuple[Judge, str]:
    """The judge of film reviews, and why it does not fit the data; "" if it does."""
    judge, labelled = imdb_judge(), [t for t in data.evaluation.labelled if t.label != 0.5]
    accuracy: dict[str, float | int] = {"accuracy_imdb": judge.accuracy_imdb}
    if labelled:
        accuracy |= {"accuracy_task": judge.accuracy(labelled), "held_out": len(labelled)}
    found = Judge("film", "film reviews", lambda texts, prompts: judge.positive(texts), accuracy)
    if data.name in BUILT_IN:
        return found, ""
    if not labelled:
        return found, "the judge reads film reviews, and the data has no labelled held-out texts to test it on"
    wrong = _no_better_than_guessing(found, labelled)
    return found, f"the judge reads film reviews and does not fit the data: {wrong}" if wrong else ""


def _no_better_than_guessing(judge: Judge, labelled: Sequence[LabelledText]) -> str:
    """About which label it is no better than guessing; "" if it is better for both."""
    some = [t for t in labelled if t.label != 0.5][:_MOST_TEXTS]
    labels = np.array([t.label > 0.5 for t in some])
    right = (judge.positive([plain(t.text) for t in some]) > 0.5) == labels if some else labels
    for label, word in enumerate(("negative", "positive")):
        of_label = right[labels == label]
        if not len(of_label) or wilson(int(of_label.sum()), len(of_label))[0] <= 0.5:
            return f"it is right about {of_label.sum()} of {len(of_label)} {word} held-out texts"
    return ""


def _fitted(data: Splits) -> tuple[Judge | None, str]:
    """A judge fitted on the judgements of the prompts' part; None and the reason where it would not help."""
    made = _fit_comparisons(data) if data.prompts.comparisons else _fit_labels(data.prompts)
    if made is None:
        return (
            None,
            f"there are too few judgements that the reward model never saw to fit another (fewer than {_FEWEST})",
        )
    reads, number, kind = made
    judge = Judge("fitted", f"{number} {kind} of this data that the reward model never saw", reads)
    if kind == "labels":
        labelled = [t for t in data.evaluation.labelled if t.label != 0.5]
        wrong = _no_better_than_guessing(judge, labelled)
        right = (judge.positive([plain(t.text) for t in labelled]) > 0.5) == [t.label > 0.5 for t in labelled]
    else:
        pairs = [c for c in data.evaluation.comparisons if c.choice != "tie"]
        first, second = (judge.positive([plain(t) for t in side]) for side in _sides(pairs)) if pairs else ([], [])
        right = (np.array(first) > np.array(second)) == [c.choice == "a" for c in pairs]
        too_few = not pairs or wilson(int(right.sum()), len(pairs))[0] <= 0.5
        wrong = f"it is right about {right.sum()} of {len(pairs)} held-out comparisons" if too_few else ""
    if wrong:
        return None, f"one fitted on {judge.domain} is no better than guessing: {wrong}"
    accuracy = {"accuracy_task": float(np.mean(right)), "held_out": len(right), "fitted_on": number}
    return Judge(judge.name, judge.domain, reads, accuracy), ""


Reads = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def _fit_labels(part: Part) -> tuple[Reads, int, str] | None:
    """A logistic regression on the labels of a part; None where there are too few of either."""
    some = [t for t in part.labelled if t.label != 0.5][:_MOST_FITTED]
    labels = np.array([t.label > 0.5 for t in some])
    if min(labels.sum(), (~labels).sum()) < _FEWEST if some else True:
        return None
    tfidf, regression = _characters(), LogisticRegression(C=10.0, class_weight="balanced", max_iter=500)
    regression.fit(tfidf.fit_transform([plain(t.text) for t in some]), labels)
    return lambda texts, prompts: regression.predict_proba(tfidf.transform(texts))[:, 1], len(some), "labels"


def _fit_comparisons(data: Splits) -> tuple[Reads, int, str] | None:
    """A logistic regression on differences of features; a response is positive above the middle of held-out ones."""
    pairs = [c for c in data.prompts.comparisons if c.choice != "tie"][:_MOST_FITTED]
    if len(pairs) < 2 * _FEWEST:
        return None
    tfidf, regression = _characters(), LogisticRegression(C=10.0, fit_intercept=False, max_iter=500)
    first, second = ([plain(text) for text in side] for side in _sides(pairs))
    tfidf.fit([*first, *second])
    difference, chosen = tfidf.transform(first) - tfidf.transform(second), np.array([c.choice == "a" for c in pairs])
    regression.fit(sparse.vstack([difference, -difference]), np.concatenate([chosen, ~chosen]))
    weights = regression.coef_[0]
    held_out = [plain(text) for side in _sides(data.evaluation.comparisons) for text in side]
    middle = float(np.median(tfidf.transform(held_out) @ weights)) if held_out else 0.0
    return lambda texts, prompts: expit(tfidf.transform(texts) @ weights - middle), len(pairs), "comparisons"


def _sides(pairs: Sequence[Comparison]) -> tuple[list[Text], list[Text]]:
    """The first and the second responses."""
    return [c.response_a for c in pairs], [c.response_b for c in pairs]


def _characters() -> TfidfVectorizer:
    """TF-IDF of parts of words, which need no list of a language's words or endings."""
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True)


def plain(text: Text) -> str:
    """A text as the judge reads it: of a dialogue, what was said."""
    return text if isinstance(text, str) else "\n".join(message.content for message in text)


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


class FilmJudge:
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
    def load(cls, path: Path) -> FilmJudge:
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
        labels = np.array([t.label > 0.5 for t in texts])
        return float(((self.positive([plain(t.text) for t in texts]) > 0.5) == labels).mean())
