from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from plaudit.data.columns import Table, records
from plaudit.records import Comparison, Demonstration, LabelledText

Refused = Callable[[Callable[[], object]], str]


def read(*rows: dict[str, Any], columns: tuple[str, ...] = ()) -> tuple[list[Any], dict[str, int]]:
    dropped: Counter[str] = Counter()
    table = Table("t.tsv", "line", columns or tuple(rows[0]), list(enumerate(rows, start=2)))
    return records([table], dropped), dict(dropped)


@pytest.mark.parametrize("column", ["text", "sentence", "review"])
def test_labelled_texts(column: str) -> None:
    assert read({"idx": 0, column: " a film ", "label": "1"})[0] == [LabelledText("a film", 1)]


@pytest.mark.parametrize("given", ["0", 0, " 0.0", False, "negative", "neg", "False"])
def test_negative_labels(given: Any) -> None:
    assert read({"text": "x", "label": given})[0] == [LabelledText("x", 0)]


@pytest.mark.parametrize("given", ["1", 1, 1.0, True, "Positive", "POS", "true"])
def test_positive_labels(given: Any) -> None:
    assert read({"text": "x", "label": given})[0] == [LabelledText("x", 1)]


@pytest.mark.parametrize("given", ["2", 2, "good", "", None, 0.5, float("nan"), [1], "-2", "x" * 1_000_000])
def test_other_labels_are_refused_with_the_line(given: Any, refused: Refused) -> None:
    message = refused(lambda: read({"text": "x", "label": 1}, {"text": "y", "label": given}))
    assert message.startswith("t.tsv, line 3: label ")
    assert repr(given) in message or len(repr(given)) > 100


def test_unlabelled_and_empty_rows_are_counted() -> None:
    rows = [{"text": "kept", "label": "0"}, {"text": "x", "label": "-1"}, {"text": "y", "label": -1}]
    rows += [{"text": "  ", "label": "1"}, {"text": None, "label": "1"}]
    assert read(*rows) == ([LabelledText("kept", 0)], {"unlabelled": 2, "empty": 2})


@pytest.mark.parametrize("column", ["response", "completion"])
def test_demonstrations(column: str) -> None:
    rows = [{"prompt": "Why?", column: " Because. "}, {"prompt": None, column: "So."}, {"prompt": "Eh?", column: " "}]
    expected = [Demonstration("Why?", " Because. "), Demonstration("", "So.")]
    assert read(*rows) == (expected, {"empty": 1})


def test_demonstrations_with_labels_are_refused(refused: Refused) -> None:
    message = refused(lambda: read({"prompt": "p", "completion": "c", "label": False}))
    assert "remove the column 'label'" in message


def test_chosen_and_rejected() -> None:
    rows = [{"chosen": "good", "rejected": "bad"}, {"prompt": "p", "chosen": "good", "rejected": "bad"}]
    assert read(*rows)[0] == [Comparison("", "good", "bad", "a"), Comparison("p", "good", "bad", "a")]


def test_choices() -> None:
    row = {"prompt": "p", "response_a": "x", "response_b": "y"}
    rows = [row | {"choice": "a"}, row | {"choice": "B", "annotator": 7}, row | {"choice": "tie", "annotator": "ann"}]
    assert read(*rows)[0] == [
        Comparison("p", "x", "y", "a"),
        Comparison("p", "x", "y", "b", "7"),
        Comparison("p", "x", "y", "tie", "ann"),
    ]


def test_comparisons_of_identical_or_empty_responses_are_counted() -> None:
    rows = [{"chosen": "same", "rejected": "same"}, {"chosen": "x", "rejected": ""}]
    assert read(*rows) == ([], {"identical responses": 1, "empty": 1})


def test_other_choices_are_refused(refused: Refused) -> None:
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "choice": "c"}
    assert refused(lambda: read(row)) == "t.tsv, line 2: choice 'c': must be a, b or tie"


def test_unknown_columns_are_refused_with_the_known_ones(refused: Refused) -> None:
    message = refused(lambda: read({"comment": "x", "stars": "5"}))
    assert "'comment', 'stars'" in message
    assert "text (or sentence, review) and label" in message


def test_a_missing_label_column_is_named(refused: Refused) -> None:
    assert "no column 'label' beside 'sentence'" in refused(lambda: read({"index": "0", "sentence": "x"}))


def test_the_error_for_a_file_without_a_header_is_short(refused: Refused) -> None:
    refused(lambda: read(dict.fromkeys([f"{i} {'long ' * 1000}" for i in range(100)], "")))


def test_a_row_without_a_needed_column_is_refused(refused: Refused) -> None:
    message = refused(lambda: read({"text": "x", "label": 1}, {"label": 1, "txt": "y"}))
    assert message == "t.tsv, line 3: no 'text'; found 'label', 'txt'"


@pytest.mark.parametrize("value", [5, ["x"], {"role": "user", "content": "x"}])
def test_values_other_than_text_are_refused(value: Any, refused: Refused) -> None:
    message = refused(lambda: read({"prompt": "p", "chosen": value, "rejected": "x"}))
    assert message.startswith("t.tsv, line 2: chosen ")


def test_half_of_a_surrogate_pair_is_refused(refused: Refused) -> None:
    assert "surrogate" in refused(lambda: read({"text": "x \ud800", "label": 1}))
