from __future__ import annotations

import pytest

from plaudit.data.text import content_hash, distinct, normalise


@pytest.mark.parametrize(
    ("web", "plain"),
    [
        ("It's GREAT!!!<br />See it (twice) - 10/10.", "it's great ! see it ( twice ) - 10/10 ."),
        ("A 7.5 of 1,000 at 10:30", "a 7.5 of 1,000 at 10:30"),
        ("caf\u00e9 \u201cnoir\u201d\u2014really", 'cafe " noir " -- really'),
        ("one\x85two \x93three\x94", 'one . two " three "'),
        ("**bold** ~~struck~~ a=b", "bold struck a b"),
        ("  \t\n ", ""),
    ],
)
def test_normalise(web: str, plain: str) -> None:
    assert normalise(web) == plain


def test_normalising_twice_changes_nothing() -> None:
    once = normalise("So... is it GOOD?? I'd say \u201cyes\u201d -- 8.5/10<br/>really")
    assert normalise(once) == once


def test_content_hash_is_sha256_of_the_text_in_lower_case_with_single_spaces() -> None:
    # printf 'a b' | sha256sum
    expected = "c8687a08aa5d6ed2044328fa6a697ab8e96dc34291e8c2034ae8c38e6fcc6d65"
    assert content_hash("a b") == expected
    assert content_hash("  A \t b\n") == expected
    assert content_hash("ab") != expected


def test_distinct_counts_n_grams_over_all_responses():
    assert distinct([[1, 2, 1, 2], [1, 2]], 1) == 2 / 6
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4  # (1,2) (2,1) (1,2) and (1,2)
    assert distinct([[1]], 2) == 0.0
