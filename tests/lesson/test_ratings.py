import sys

from plaudit.errors import DataError
from plaudit.lesson import ratings
from plaudit.records import RatedText


def test_ratings_are_loaded_without_output(monkeypatch, capsys):
    def loaded():
        print("ready in /home/ann/.cache", file=sys.stderr)
        return [RatedText("fine", (1,), 0)]

    monkeypatch.setattr(ratings, "human_ratings", loaded)
    assert ratings.ratings_if_available() == [RatedText("fine", (1,), 0)]
    assert capsys.readouterr() == ("", "")


def test_without_a_network_a_line_says_what_is_missing(monkeypatch, capsys):
    def failed():
        raise DataError("cannot fetch 'human-ratings'")

    monkeypatch.setattr(ratings, "human_ratings", failed)
    assert ratings.ratings_if_available() == []
    assert "LEFT OUT of this notebook: cannot fetch 'human-ratings'" in capsys.readouterr().out
