import pytest

from plaudit.data.embedded import rotten_tomatoes
from plaudit.evaluation.judge import imdb_judge


@pytest.fixture(scope="module")
def judge():
    return imdb_judge()


def test_it_is_right_on_reviews_and_on_sentences_that_it_has_not_seen(judge):
    assert judge.accuracy_imdb > 0.87
    assert judge.accuracy(rotten_tomatoes()) > 0.70


def test_it_tells_plain_praise_from_plain_blame(judge):
    good, bad = judge.positive(["A wonderful, moving film; superb.", "a dull , terrible waste of time ."])
    assert good > 0.8
    assert bad < 0.2
