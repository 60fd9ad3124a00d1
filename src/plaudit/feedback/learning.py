"""Keeps the head of head.py up to date while people vote, in a thread of its own, so that no vote waits for it.

A process of its own would be no faster. With 2,000 votes of five people on a busy machine of two cores, the 99th
percentile of a vote was 208 to 301 ms with this thread, 236 to 251 ms with a process, and 131 to 166 ms without a head
(three runs each): what a refit costs is the processor, and numpy leaves the interpreter to others meanwhile. A thread
needs no second copy of the activations, and nothing that carries its results back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from plaudit.errors import FeedbackError
from plaudit.feedback.store import Label, Store

if TYPE_CHECKING:
    from plaudit.feedback.head import Learner, Outlook


_REST = 3.0  # times as long as an update takes, the thread rests after it

_READY = """SELECT count(*), ifnull(sum((a.features IS NULL) + (b.features IS NULL)), 0)
    FROM item JOIN completion a ON a.id = item.a JOIN completion b ON b.id = item.b
    WHERE purpose IN ('train', 'eval')"""


@dataclass(frozen=True)
class Learned:
    """What the model has learned from the votes so far."""

    labels: tuple[Label, ...]  # the votes, in the order in which they were given
    predicted: np.ndarray  # (V,) the probability of response a, from the votes before each
    outlook: Outlook  # on all pairs
    information: Mapping[int, float]  # bits that a vote on each item is expected to tell
    seconds: float  # that the last update took

    @cached_property
    def choices(self) -> Mapping[int | None, tuple[list[Label], list[float]]]:
        """By annotator: the choices between two responses, and what was predicted about each. None: of everybody."""
        found: dict[int | None, tuple[list[Label], list[float]]] = {None: ([], [])}
        for label, chance in zip(self.labels, self.predicted.tolist(), strict=True):
            if label.outcome in ("a", "b") and not label.repeat:
                for of in (None, label.annotator):
                    labels, predicted = found.setdefault(of, ([], []))
                    labels.append(label)
                    predicted.append(chance)
        return found


class Learning:
    """Learns from the votes of a project after each call of `update`."""

    def __init__(self, store: Store) -> None:
        self.learned: Learned | None = None  # None: no votes yet, or responses without activations
        self.problem = ""  # why nothing is learned
        self._store = store
        self._changed, self._stopped = threading.Event(), threading.Event()
        self._learner: Learner | None = None
        self._pairs: dict[int, tuple[int, int]] = {}  # that the learner was made for
        self._thread = threading.Thread(target=self._run, name="learning", daemon=True)

    def start(self) -> None:
        """Begin, with the votes that are there."""
        self._changed.set()
        self._thread.start()

    def update(self) -> None:
        """Learn from what has been answered since; returns at once."""
        self._changed.set()

    def stop(self) -> None:
        """Wait until the thread has ended."""
        self._stopped.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def priority(self, item: int) -> float:
        """Bits that a vote on this item is expected to tell, for `assignment.next`."""
        return self.learned.information.get(item, 0.0) if self.learned else 0.0

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._stopped.is_set():
                return
            start = time.perf_counter()
            try:
                self.learn()
            except FeedbackError as error:
                self.learned, self.problem = None, str(error)
            # When many people vote at once, the requests need the processor more.
            self._stopped.wait(_REST * (time.perf_counter() - start))

    def learn(self) -> None:
        """Learn now from all votes, and replace `learned`."""
        start = time.perf_counter()
        if (learner := self._current()) is None:
            self.learned = None
            return
        votes = (x for x in self._store.labels() if x.purpose in ("train", "eval") and x.outcome != "skip")
        if not (labels := tuple(votes)):
            self.learned = None
            return
        learner.follow(labels)
        outlook = learner.outlook(list(self._pairs.values()))
        information = learner.information(self._pairs)
        self.learned = Learned(labels, learner.predicted, outlook, information, time.perf_counter() - start)
        self.problem = ""

    def _current(self) -> Learner | None:
        """The learner for the pairs that are there now; None while a response has no activations."""
        with self._store.database.reading() as connection:
            pairs, missing = connection.execute(_READY).fetchone()
        if not pairs:
            return None
        if missing:
            self.problem = f"{missing} of {2 * pairs} responses have no activations"
            return None
        if pairs != len(self._pairs):
            from plaudit.feedback.head import Learner, Pool  # imports scipy, for which no page should wait

            items = [item for item in self._store.items() if item.purpose in ("train", "eval")]
            completions = self._store.completions({one for item in items for one in (item.a, item.b)})
            features = {i: x for i, c in completions.items() if (x := c.features) is not None}
            self._learner = Learner(Pool.of(features))
            self._pairs = {item.id: (item.a, item.b) for item in items if {item.a, item.b} <= features.keys()}
        return self._learner
