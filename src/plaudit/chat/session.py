"""What is asked and answered while the page is served: the queue, the history, and the state of the models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from plaudit.errors import FeedbackError

Prompt: TypeAlias = str | list[dict[str, str]]  # a text to continue, or messages with `role` and `content`
MOST_WAITING = 20
_ALIKE = ("prompt", "messages")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    temperature: float
    seed: int
    max_new_tokens: int
    answers: int  # of each model


@dataclass
class Turn:
    """One message, and what both models answer to it."""

    number: int  # in the session, from 1
    message: str  # as people read it
    prompt: Prompt | None  # a prompt of its own, such as one of the evaluation; None for a message
    sampling: Sampling
    at: float  # seconds since 1970
    state: Literal["waiting", "answering", "answered", "failed"] = "waiting"
    problem: str = ""
    sides: list[list[dict[str, Any]] | None] = field(default_factory=lambda: [None, None])
    continued: tuple[int, int] = (0, 0)  # which answer of each model the next turn continues


@dataclass
class Conversation:
    """Turns one after the other; of models that do not chat, one."""

    number: int
    turns: list[Turn] = field(default_factory=list)

    @property
    def last_answered(self) -> Turn | None:
        """The turn that the next one continues."""
        return next((turn for turn in self.turns[::-1] if turn.state == "answered"), None)

    def asked(self, turn: Turn, side: int, chats: bool) -> Prompt:
        """What a model reads to answer a turn: of a dialogue also the turns before, with its own answers."""
        messages: list[dict[str, str]] = []
        for each in self.turns:
            if each is not turn and each.state != "answered":
                continue  # it failed, and nobody has answered it
            prompt = each.prompt if each.prompt is not None else each.message
            if not chats:
                return prompt if isinstance(prompt, str) else each.message
            messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            if each is turn:
                break
            answers = each.sides[side] or []
            messages.append({"role": "assistant", "content": answers[each.continued[side]]["text"].strip()})
        return messages


class Session:
    """All turns, and the state of the models, for several threads.

    Attributes:
        names: of the two models.
        about: what the models' process has told when it was ready: whether they chat, the evaluation's prompts, the
            reward and the judge; empty before.
        state: of the models.
        progress: steps of loading that are done, all steps, and what comes next.
        version: counts the changes.
        changed: called after a turn has been added.
    """

    def __init__(self, names: tuple[str, str], clock: Callable[[], float] = time.time) -> None:
        self.names, self.about, self.problem = names, dict[str, Any](), ""
        self.state: Literal["loading", "ready", "stopped"] = "loading"
        self.progress: tuple[int, int, str] = (0, 1, "starting Python and PyTorch")
        self.conversations: list[Conversation] = []
        self.version, self.changed = 0, lambda: None
        self._clock, self._lock, self._turns = clock, threading.RLock(), 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A change by one thread at a time."""
        with self._lock:
            yield
            self.version += 1

    @property
    def chats(self) -> bool:
        """Whether the models hold dialogues of several turns."""
        return bool(self.about.get("chats"))

    @property
    def waiting(self) -> list[Turn]:
        """The turns that nobody answers yet, in their order."""
        turns = [turn for one in self.conversations for turn in one.turns if turn.state == "waiting"]
        return sorted(turns, key=lambda turn: turn.number)

    @property
    def pending(self) -> bool:
        """Whether something may change without anybody asking."""
        answering = any(turn.state == "answering" for one in self.conversations for turn in one.turns)
        return self.state == "loading" or (self.state == "ready" and (answering or bool(self.waiting)))

    def position(self, turn: Turn) -> int:
        """The turn's place in the queue, from 1."""
        return 1 + sum(other.number < turn.number for other in self.waiting)

    def ask(
        self,
        message: str,
        sampling: Sampling,
        prompt: Prompt | None = None,
        after: int | None = None,
        continued: tuple[int, int] = (0, 0),
    ) -> Turn:
        """Put a message into the queue.

        Args:
            prompt: instead of the message, such as a dialogue of the evaluation.
            after: number of the conversation that it continues; None for a new one.
            continued: which answer of each model it continues.

        Raises:
            FeedbackError: too many wait, or that conversation cannot be continued.
        """
        with self.changing():
            if len(self.waiting) >= MOST_WAITING:
                raise FeedbackError(f"{MOST_WAITING} prompts are waiting already; ask again when some are answered.")
            conversation = Conversation(1 + max((one.number for one in self.conversations), default=0))
            if after is not None:
                conversation = self._continued(after, continued)
            else:
                self.conversations.append(conversation)
            self._turns += 1
            turn = Turn(self._turns, message, prompt, sampling, self._clock())
            conversation.turns.append(turn)
        self.changed()
        return turn

    def _continued(self, number: int, continued: tuple[int, int]) -> Conversation:
        found = next((one for one in self.conversations if one.number == number), None)
        if found is None or not self.chats:
            raise FeedbackError("There is no such dialogue here. Begin another one.")
        if found.turns[-1].state in ("waiting", "answering"):
            raise FeedbackError("The last message of this dialogue is not answered yet. Wait for the answers.")
        last = found.last_answered
        if last is None:
            raise FeedbackError("No message of this dialogue was answered. Begin another one.")
        for answers, which in zip(last.sides, continued, strict=True):
            if not 0 <= which < len(answers or []):
                raise FeedbackError("There is no such answer to continue. Choose one of those that are shown.")
        last.continued = continued
        return found

    def conversation_of(self, turn: Turn) -> Conversation:
        """The conversation that a turn is in."""
        return next(one for one in self.conversations if turn in one.turns)

    def request(self, turn: Turn) -> dict[str, Any]:
        """What the models' process needs to answer a turn."""
        with self._lock:
            one = self.conversation_of(turn)
            asked = [one.asked(turn, side, self.chats) for side in range(2)]
            last = turn.prompt[-1]["content"] if isinstance(turn.prompt, list) else turn.prompt or turn.message
            place = one.turns.index(turn)
        return {"turn": turn.number, "asked": asked, "message": last, "place": place, **asdict(turn.sampling)}

    def newest_first(self) -> list[Conversation]:
        """The conversations, that with the newest turn first."""
        with self._lock:
            return sorted(self.conversations, key=lambda one: -one.turns[-1].number)

    def rows(self) -> list[dict[str, Any]]:
        """One row an answer, in the order in which they were asked."""
        with self._lock:
            turns = sorted(((t, one) for one in self.conversations for t in one.turns), key=lambda each: each[0].number)
        found = []
        for turn, one in turns:
            for side, (name, answers) in enumerate(zip(self.names, turn.sides, strict=True)):
                asked = one.asked(turn, side, self.chats)
                prompt = {_ALIKE[isinstance(asked, list)]: asked}
                for place, answer in enumerate(answers or [], 1):
                    own = {"turn": turn.number, "conversation": one.number, "model": name, "answer": place}
                    found.append(own | prompt | answer | {"settings": asdict(turn.sampling), "at": turn.at})
        return found
