"""The process beside the page: one prompt after the other, and a line for whatever goes wrong."""

import sys
import threading

import pytest
from chat.talk import FAKE, SAMPLING, answered, talking, wait_for

from plaudit.chat.session import Session
from plaudit.chat.worker import Worker


def test_a_prompt_is_answered_by_both_models():
    with talking() as (session, _, _):
        turn = answered(session, session.ask("hello", SAMPLING).number)
        assert turn.state == "answered"
        assert [side[0]["text"] for side in turn.sides] == [" hello 0", " hello 0"]
        assert session.about["judge"] == "films"


def test_what_is_asked_while_the_models_load_is_answered_afterwards(tmp_path):
    with talking(f"until {tmp_path / 'ready'}") as (session, _, _):
        turn = session.ask("hello", SAMPLING)
        wait_for(lambda: session.progress == (1, 4, "opening the models"))
        assert (session.state, turn.state, session.pending) == ("loading", "waiting", True)
        (tmp_path / "ready").touch()
        assert answered(session, 1).state == "answered"
        wait_for(lambda: not session.pending)


def test_many_threads_lose_no_prompt_and_double_none():
    with talking() as (session, _, _):
        wait_for(lambda: session.state == "ready")
        found = []

        def ask(name):
            for number in range(3):
                turn = session.ask(f"{name} {number}", SAMPLING)
                answered(session, turn.number)
                found.append(turn)

        threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(turn.number for turn in found) == list(range(1, 13))
        assert all(turn.sides[1][0]["text"] == f" {turn.message} 0" for turn in found)


def test_a_prompt_that_cannot_be_answered_says_why_and_the_next_one_is():
    with talking() as (session, _, _):
        turn = answered(session, session.ask("fail", SAMPLING).number)
        assert (turn.state, turn.problem) == ("failed", "a prompt of 99 tokens does not fit; shorten it")
        assert answered(session, session.ask("hello", SAMPLING).number).state == "answered"


@pytest.mark.parametrize(("message", "reason"), [("die", "the disk is gone"), ("kill", "killed by signal 9")])
def test_a_process_that_dies_says_why_in_one_line_and_can_be_started_again(message, reason):
    with talking() as (session, worker, _):
        turn = answered(session, session.ask(message, SAMPLING).number)
        later = session.ask("hello", SAMPLING)
        wait_for(lambda: session.state == "stopped")
        assert reason in session.problem
        assert turn.problem == f"not answered: {session.problem}"
        assert (later.state, session.pending) == ("waiting", False)
        worker.start()
        worker.start()  # twice is once
        assert answered(session, later.number).state == "answered"


def test_a_process_that_dies_while_nobody_asks_is_noticed():
    with talking() as (session, worker, _):
        wait_for(lambda: session.state == "ready")
        worker._process.kill()
        wait_for(lambda: session.state == "stopped")


def test_a_prompt_that_takes_too_long_ends_the_process():
    with talking(longest=0.5) as (session, worker, _):
        turn = answered(session, session.ask("hang", SAMPLING).number)
        wait_for(lambda: session.state == "stopped")
        assert "took longer than 0.5 s" in turn.problem
        assert "--timeout" in turn.problem
        worker.longest = 60
        worker.start()
        assert answered(session, session.ask("hello", SAMPLING).number).state == "answered"


def test_models_that_cannot_be_opened_are_one_line():
    said = []
    session = Session(("sft", "ppo"))
    worker = Worker([*FAKE, "broken"], session, report=said.append)
    worker.start()
    wait_for(lambda: said)
    assert session.problem == "no model here; use another"
    assert said == ["the models have stopped: no model here; use another"]
    worker.close()


def test_a_command_that_does_not_exist_is_one_line():
    session = Session(("sft", "ppo"))
    worker = Worker(["/no/such/program"], session)
    worker.start()
    wait_for(lambda: session.state == "stopped")
    assert "cannot be started" in session.problem
    worker.close()


def test_closing_ends_the_process_also_in_the_middle_of_an_answer():
    with talking() as (session, worker, _):
        session.ask("hang", SAMPLING)
        wait_for(lambda: session.waiting == [] and session.state == "ready")
        process = worker._process
        process.terminate()
        worker.close()
        assert process.poll() is not None
        worker.start()
        assert worker._process is None


def test_what_is_no_message_is_left_out():
    code = 'print(\'hello\'); print(\'[1]\'); print(\'{"kind": "error", "message": "the end"}\')'
    session = Session(("sft", "ppo"))
    worker = Worker([sys.executable, "-c", code], session)
    worker.start()
    wait_for(lambda: session.state == "stopped")
    assert session.problem == "the end"
    worker.close()
