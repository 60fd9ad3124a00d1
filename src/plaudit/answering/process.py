"""The process that opens two models of a run and answers prompts.

    python -m plaudit.answering.process RUN sft ppo

It reads a line of JSON for each prompt on standard input, and writes lines of JSON; `plaudit.chat.worker` starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plaudit.answering.models import Sides, noise_for
from plaudit.chat.session import Prompt, Sampling
from plaudit.cli.failures import describe
from plaudit.evaluation.metrics import strict
from plaudit.records import Message, Text, asking
from plaudit.training.run import Run

Tell = Callable[[dict[str, Any]], None]


def serve(run: Run, names: Sequence[str], requests: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Open the models, and answer requests until they end."""

    def loading(done: int, total: int, what: str) -> None:
        tell({"kind": "loading", "done": done, "total": total, "message": what})

    sides = Sides(run, names, loading)
    tell(
        {
            "kind": "ready",
            "chats": sides.chats,
            "prompts": [_plain(prompt) for prompt in sides.evaluation_prompts()],
            "reward": sides.reward.name if sides.reward else "",
            "no_score": sides.no_score,
            "judge": sides.judge.domain if sides.judge else "",
            "no_judge": sides.no_judge,
        }
    )
    for request in requests:
        try:
            _answer(sides, request, tell)
        except Exception as error:  # of any class: the next prompt may be answered
            tell({"kind": "failed", "turn": request["turn"], "message": describe(error)})


def _answer(sides: Sides, request: dict[str, Any], tell: Tell) -> None:
    names = ("temperature", "seed", "max_new_tokens", "answers")
    sampling = Sampling(**{name: request[name] for name in names})
    noise = noise_for(sampling, request["message"], request["place"])
    for place, (side, asked) in enumerate(zip(sides.sides, request["asked"], strict=True)):
        answers = sides.answer(side, _text(asked), sampling, noise)
        tell({"kind": "answers", "turn": request["turn"], "side": place, "answers": answers})
    tell({"kind": "done", "turn": request["turn"]})


def _text(prompt: Prompt) -> Text:
    return prompt if isinstance(prompt, str) else tuple(Message(**message) for message in prompt)


def _plain(prompt: Text) -> dict[str, Any]:
    """A prompt as people read it, and as a request has it."""
    if isinstance(prompt, str):
        return {"shown": prompt, "prompt": prompt}
    shown = prompt[0].content if len(prompt) == 1 else asking(prompt)
    return {"shown": shown, "prompt": [asdict(message) for message in prompt]}


def _own_output() -> Any:
    """Standard output for our lines alone: what a library or a reward function prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)
    return out


def _requests(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The requests on standard input. When it ends the process ends at once, also in the middle of an answer."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(waiting.get())


def main(argv: Sequence[str] | None = None) -> int:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(description="Answer prompts with two models of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs=2)
    given = parser.parse_args(argv)
    out = _own_output()

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(strict(message), allow_nan=False) + "\n")
        out.flush()

    requests = _requests(sys.stdin)
    try:
        serve(Run.existing(given.run), given.models, requests, tell)
    except Exception as error:  # of any class: the page shows the line
        tell({"kind": "error", "message": describe(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
