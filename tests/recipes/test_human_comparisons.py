from plaudit.data.agreement import Pair
from plaudit.records import RatedText
from recipes.human_comparisons import votes


def test_each_person_has_a_vote_and_a_name():
    pair = Pair(RatedText("warm", (3, 2, -1), 7), RatedText("dull", (-2, 2, 0), 7))
    cast = votes(pair)
    assert [vote["choice"] for vote in cast] == ["a", "tie", "b"]
    assert [vote["annotator"] for vote in cast] == ["7-0", "7-1", "7-2"]
    assert {(vote["response_a"], vote["response_b"]) for vote in cast} == {("warm", "dull")}
