"""The queue and the history, without a process."""

import pytest
from chat.talk import SAMPLING
from hypothesis import given
from hypothesis import strategies as st

from plaudit.chat.session import MOST_WAITING, Session
from plaudit.errors import FeedbackError

ANSWER = {"text": " yes ", "ids": [1]}


def chatting():
    session = Session(("sft", "ppo"), clock=lambda: 0.0)
    session.about, session.state = {"chats": True}, "ready"
    return session


def answer(turn, *texts):
    turn.sides = [[{"text": text} for text in texts] for _ in range(2)]
    turn.state = "answered"


def test_turns_wait_in_the_order_in_which_they_were_asked():
    session = Session(("sft", "ppo"))
    turns = [session.ask(word, SAMPLING) for word in "abc"]
    assert [session.position(turn) for turn in turns] == [1, 2, 3]
    assert [one.turns[0].message for one in session.newest_first()] == ["c", "b", "a"]
    turns[0].state = "answering"
    assert [session.position(turn) for turn in turns[1:]] == [1, 2]


def test_the_queue_has_an_end():
    session = Session(("sft", "ppo"))
    for number in range(MOST_WAITING):
        session.ask(str(number), SAMPLING)
    with pytest.raises(FeedbackError, match="waiting already"):
        session.ask("one more", SAMPLING)


def test_each_side_of_a_dialogue_keeps_its_own_history():
    session = chatting()
    first = session.ask("hello", SAMPLING)
    first.sides = [[{"text": " before 1"}, {"text": " before 2"}], [{"text": " after 1"}, {"text": " after 2"}]]
    first.state = "answered"
    second = session.ask("and why?", SAMPLING, after=1, continued=(1, 0))
    hello, why = ({"role": "user", "content": words} for words in ("hello", "and why?"))
    assert session.request(second)["asked"] == [
        [hello, {"role": "assistant", "content": "before 2"}, why],
        [hello, {"role": "assistant", "content": "after 1"}, why],
    ]
    assert session.request(second)["place"] == 1
    assert session.request(first)["asked"] == [[hello], [hello]]


def test_a_dialogue_of_the_evaluation_is_continued_as_it_is():
    session = chatting()
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    first = session.ask("be brief, hello", SAMPLING, prompt=turns)
    answer(first, "yes")
    assert session.request(first)["asked"] == [turns, turns]
    assert session.request(first)["message"] == "hello"
    second = session.ask("and?", SAMPLING, after=1)
    assert session.request(second)["asked"][0][:2] == turns
    assert len(session.request(second)["asked"][0]) == 4


@pytest.mark.parametrize("state", ["waiting", "answering", "failed"])
def test_what_is_not_answered_cannot_be_continued(state):
    session = chatting()
    session.ask("hello", SAMPLING).state = state
    with pytest.raises(FeedbackError, match="answered"):
        session.ask("and?", SAMPLING, after=1)


@pytest.mark.parametrize(("after", "continued"), [(2, (0, 0)), (0, (0, 0)), (1, (1, 0)), (1, (0, -1))])
def test_dialogues_and_answers_that_are_not_there_are_refused(after, continued):
    session = chatting()
    answer(session.ask("hello", SAMPLING), "yes")
    with pytest.raises(FeedbackError):
        session.ask("and?", SAMPLING, after=after, continued=continued)
    assert len(session.conversations) == 1
    assert len(session.conversations[0].turns) == 1


def test_a_message_that_failed_is_left_out_of_the_dialogue():
    session = chatting()
    answer(session.ask("hello", SAMPLING), "yes")
    failed = session.ask("far too long", SAMPLING, after=1)
    failed.state, failed.sides = "failed", [[{"text": "half"}], None]
    third = session.ask("why?", SAMPLING, after=1)
    assert [each["content"] for each in session.request(third)["asked"][0]] == ["hello", "yes", "why?"]


def test_models_that_do_not_chat_have_no_dialogues():
    session = chatting()
    answer(session.ask("hello", SAMPLING), "yes")
    session.about = {"chats": False}
    with pytest.raises(FeedbackError):
        session.ask("and?", SAMPLING, after=1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=6))
def test_every_answer_is_one_row_of_the_export(asked):
    session = chatting()
    for dialogue, answers in asked:
        after = session.conversations[-1].number if dialogue and session.conversations else None
        answer(session.ask("hello", SAMPLING, after=after), *"abcd"[:answers])
    rows = session.rows()
    assert len(rows) == sum(2 * answers for _, answers in asked)
    assert [row["turn"] for row in rows] == sorted(row["turn"] for row in rows)
    assert len({(row["turn"], row["model"], row["answer"]) for row in rows}) == len(rows)
    assert all(row["messages"][-1] == {"role": "user", "content": "hello"} for row in rows)


def test_every_change_has_a_version():
    session = Session(("sft", "ppo"))
    before = session.version
    session.ask("hello", SAMPLING)
    assert session.version > before
