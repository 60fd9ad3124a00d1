import re

import numpy as np
import pytest
import torch

from plaudit.lesson.tables import Html, coloured_text, table

BLUE, VERMILION = "0,114,178", "213,94,0"


def cells(html):
    """The text of every cell, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html.text)
    return [[re.sub(r"<[^>]*>", "", c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def colours(html):
    """(colour, opacity) of every coloured cell or piece of text before the legend."""
    found = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", html.text.partition("<small>")[0])
    return [(colour, float(opacity)) for colour, opacity in found]


def test_texts_and_numbers():
    made = table({"token": ["␣film", "<end>"], "a": [1.5, -0.25], "b": np.array([0.5, np.nan]), "n": [3, 4]})
    assert cells(made) == [
        ["token", "a", "b", "n"],
        ["␣film", "+1.50", "0.50", "3"],
        ["&lt;end&gt;", "−0.25", "", "4"],
    ]
    assert colours(made) == []
    assert "Colour" not in made.text


@pytest.mark.parametrize(
    ("values", "digits", "expected"),
    [
        ([-1.25, 0.0, 1.26], 1, ["−1.2", "0.0", "+1.3"]),
        ([-0.001, 0.5], 2, ["0.00", "+0.50"]),
        (torch.tensor([0.1, 2.0]), 3, ["0.100", "2.000"]),
        (torch.tensor([True, False]), 2, ["1", "0"]),
        ([1081.25], 1, ["1,081.2"]),
        ([float("nan"), float("inf")], 2, ["", ""]),
    ],
)
def test_how_numbers_are_written(values, digits, expected):
    assert [row[0] for row in cells(table({"a": values}, digits=digits))[1:]] == expected


def test_coloured_columns_show_signs_together():
    made = table({"a": [-1.0], "b": [2.0], "c": [3.0], "d": [-4.0]}, coloured=["a", "b"])
    assert cells(made)[1] == ["−1.00", "+2.00", "3.00", "−4.00"]
    assert cells(table({"a": [1.0], "d": [-4.0]}, coloured=["a"]))[1] == ["1.00", "−4.00"]


def test_colour_shows_the_sign_and_the_size_within_the_column():
    made = table({"a": [2.0, -1.0, 0.0, float("nan")], "b": [9.0, 9.0, 9.0, 9.0]}, coloured=["a"])
    assert colours(made) == [(BLUE, 0.6), (VERMILION, 0.3)]
    assert "Colour" in made.text
    assert colours(table({"a": [8.0, -1.0]}, coloured={"a": 4.0})) == [(BLUE, 0.6), (VERMILION, 0.15)]
    assert colours(table({"a": [8.0, -1.0]}, coloured={"a": None})) == [(BLUE, 0.6), (VERMILION, 0.07)]
    assert colours(table({"a": [0.0]}, coloured=["a"])) == []


def test_caption_and_texts_are_escaped():
    made = table({"<a>": ["a <b> film"]}, caption="Two & two")
    assert cells(made) == [["&lt;a&gt;"], ["a &lt;b&gt; film"]]
    assert "<b>Two &amp; two</b>" in made.text


def test_columns_have_the_same_length():
    with pytest.raises(ValueError, match="shorter"):
        table({"a": [1.0, 2.0], "b": [1.0]})


def test_coloured_text_keeps_every_character():
    made = coloured_text([" a", " good", " <film>"], [0.1, 1.0, -1.0], prompt="this is")
    assert re.sub(r"<[^>]*>", "", made.text) == "this is a good &lt;film&gt;"
    assert colours(made) == [(BLUE, 0.06), (BLUE, 0.6), (VERMILION, 0.6)]


def test_viewers_without_html_get_the_text():
    made = table({"token": ["x"], "a": [1.0]}) + Html("<p>&amp;</p>")
    assert made._repr_html_() == made.text
    assert repr(made).split() == ["token", "a", "x", "1.00", "&"]
