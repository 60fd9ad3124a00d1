from plaudit.errors import DataError
from plaudit.lesson import ratings as room
from plaudit.records import RatedText


def test_ratings_come_without_a_word_of_where_from(monkeypatch, capsys):
    def fetched():
        import sys

        print("ready in /home/ann/.cache", file=sys.stderr)
        return [RatedText("fine", (1,), 0)]

    monkeypatch.setattr(room, "human_ratings", fetched)
    assert room.ratings_if_any() == [RatedText("fine", (1,), 0)]
    assert capsys.readouterr() == ("", "")


def test_without_a_network_it_says_what_is_left_out(monkeypatch, capsys):
    def failed():
        raise DataError("cannot fetch 'human-ratings'")

    monkeypatch.setattr(room, "human_ratings", failed)
    assert room.ratings_if_any() == []
    assert "LEFT OUT of this notebook: cannot fetch 'human-ratings'" in capsys.readouterr().out
