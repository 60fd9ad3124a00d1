"""A page with a process that answers without models."""

import sys
import time
from contextlib import contextmanager
from pathlib import Path

from plaudit.chat.app import Chat
from plaudit.chat.session import Sampling, Session
from plaudit.chat.worker import Worker

FAKE = [sys.executable, str(Path(__file__).with_name("fake.py"))]
SAMPLING = Sampling(temperature=0.8, seed=3, max_new_tokens=16, answers=1)
FORM = {"prompt": "hello", "temperature": "0.8", "seed": "3", "max_new_tokens": "16", "answers": "1"}
LONGEST = 20  # seconds, on a busy machine


def wait_for(condition):
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


@contextmanager
def talking(story="", longest=LONGEST, names=("sft", "ppo")):
    """(session, worker, chat) with the fake process, which ends afterwards."""
    session = Session(names)
    worker = Worker([*FAKE, story], session, longest)
    worker.start()
    try:
        yield session, worker, Chat(session, worker, SAMPLING, "my run", "plaudit chat my-run")
    finally:
        worker.close()


def answered(session, number):
    """Wait until a turn is answered or has failed; the turn."""
    turns = [turn for one in session.conversations for turn in one.turns if turn.number == number]
    wait_for(lambda: turns[0].state in ("answered", "failed"))
    return turns[0]
