import re

import pytest

from plaudit.lesson.tables import Column, running_text, table, texts, written


def cells(html):
    """The letters of every cell, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub(r"<[^>]*>", "", c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def strengths(html):
    """(colour, strength) of every coloured cell or piece of text above the legend."""
    found = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", html.partition("<small>")[0])
    return [(colour, float(strength)) for colour, strength in found]


BLUE, VERMILION = "0,114,178", "213,94,0"


def test_numbers_stand_beside_their_texts_and_are_readable_without_colour():
    made = table("token", ["·film", "<end>"], [Column("a", [1.5, -0.25]), Column("b", [0.0, float("nan")], "{:.1f}")])
    assert cells(made.text) == [["token", "a", "b"], ["·film", "+1.50", "0.0"], ["&lt;end&gt;", "−0.25", ""]]
    assert "Colour" not in made.text
    assert strengths(made.text) == []


def test_colour_says_the_sign_and_its_strength_the_size_within_the_column():
    made = table("", ["x", "y", "z", "w"], [Column("a", [2.0, -1.0, 0.0, float("nan")], coloured=True)])
    assert strengths(made.text) == [(BLUE, 0.6), (VERMILION, 0.3)]
    assert "Colour" in made.text
    scaled = table("", ["x", "y"], [Column("a", [8.0, -1.0], coloured=True, scale=4.0)])
    assert strengths(scaled.text) == [(BLUE, 0.6), (VERMILION, 0.15)]
    assert strengths(table("", ["x"], [Column("a", [0.0], coloured=True)]).text) == []


def test_letters_are_never_covered():
    """The strongest layer is thin enough for dark letters on a white page and white ones on a black page: 4.5 to 1."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in (BLUE, VERMILION):
        layer = [int(c) / 255 for c in colour.split(",")]
        for page, ink in ((1.0, 0x21 / 255), (0x11 / 255, 1.0)):
            mixed = luminance([0.6 * c + 0.4 * page for c in layer])
            letters = luminance([ink] * 3)
            assert (max(mixed, letters) + 0.05) / (min(mixed, letters) + 0.05) > 4.5, (colour, page)


def test_scores_among_texts_are_coloured_and_texts_are_shown_as_they_are():
    made = texts(("prompt", "score"), [["a <b> film", 0.5], ["no", -1.0]], caption="Two & two")
    assert cells(made.text)[1:3] == [["a &lt;b&gt; film", "+0.50"], ["no", "−1.00"]]
    assert strengths(made.text) == [(BLUE, 0.3), (VERMILION, 0.6)]
    assert "Two &amp; two" in made.text
    assert "Colour" not in texts(("a",), [["b"]]).text


def test_a_running_text_keeps_every_letter_in_order():
    made = running_text([" a", " good", " <film>"], [0.1, 1.0, -1.0], before="this is")
    assert re.sub(r"<[^>]*>", "", made.text) == "this is a good &lt;film&gt;"
    assert [colour for colour, _ in strengths(made.text)] == [BLUE, BLUE, VERMILION]
    with pytest.raises(ValueError, match="shorter"):
        running_text(["a", "b"], [1.0])


def test_where_html_is_not_shown_the_letters_are():
    made = table("token", ["x"], [Column("a", [1.0])]) + texts(("b",), [["&"]])
    assert made._repr_html_() == made.text
    assert repr(made).split() == ["token", "a", "x", "+1.00", "b", "&"]


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(-1.25, "{:+.1f}", "−1.2"), (0.001, "{:+.2f}", "0.00"), (-0.001, "{:.2f}", "0.00"), (float("nan"), "{}", "")],
)
def test_numbers_as_people_write_them(value, form, text):
    assert written(value, form) == text
