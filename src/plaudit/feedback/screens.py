"""What somebody who compares sees on each page, as plain values for its template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plaudit.feedback import assignment, statistics
from plaudit.feedback.assignment import Plan
from plaudit.feedback.learning import Learning
from plaudit.feedback.store import Annotator, Assignment, Label, Progress, Store
from plaudit.maths.intervals import wilson
from plaudit.records import Text

GUIDELINES = """\
Read the prompt and both responses, then choose the response that you would rather get.
Judge what is said: is it right, does it fit the prompt, is it clear? Longer is not better in itself.
Choose a tie if both are equally good, "both bad" if neither is of use, and skip what you cannot judge."""
PRACTICE: Sequence[tuple[str, str, str, Any]] = (
    (
        "Why is the sky blue? Answer in one sentence.",
        "The sky is blue because it has a blue colour, and that is why people see that it is blue.",
        "Air scatters blue light more than red light, so blue reaches our eyes from every part of the sky.",
        "b",
    ),
    ("Suggest a name for a grey cat.", "Smoke would suit a grey cat well.", "How about Ash? It fits a grey cat.", None),
)


_PAGE = 20  # answers on a page of the history
_WINDOW = 30  # choices over which the curve of the model's accuracy is averaged
_FIRST = 10  # choices after which the curve begins
_ANSWERS = {"tie": "Tie", "both_bad": "Both bad", "skip": "Skipped"}


def add_practice(store: Store) -> None:
    """Two pairs to practise on, if the project has none of its own."""
    if not store.items("practice"):
        for prompt, a, b, gold in PRACTICE:
            first, second = (store.add_completion(prompt, text) for text in (a, b))
            store.add_item(first, second, "practice", gold)


def counted(labels: Sequence[Label]) -> list[Label]:
    """Without practice."""
    return [label for label in labels if label.purpose != "practice"]


def _answer(label: Label) -> str:
    """An answer as the value of its button."""
    if label.outcome in _ANSWERS:
        return label.outcome
    side = "left" if label.outcome == label.left else "right"
    return f"{side}-strong" if label.strength == 2 else side


def _words(label: Label) -> str:
    answer = _answer(label)
    if answer in _ANSWERS:
        return _ANSWERS[answer]
    return f"{1 if answer.startswith('left') else 2} {'much better' if answer.endswith('strong') else 'better'}"


def start(store: Store, person: Annotator, plan: Plan) -> dict[str, Any]:
    """Where somebody begins, or goes on."""
    standing = assignment.standing(store, person.id, plan)
    return {
        "begun": standing.answers > 0,
        "answered": standing.answered,
        "total": standing.answered + standing.left,
    }


def pair(
    store: Store, person: Annotator, plan: Plan, pair: Assignment, learning: Learning, beside: Sequence[int]
) -> dict[str, Any]:
    """Two responses to compare, after those of the assignments `beside`, which are on the page already."""
    own = store.labels(annotator=person.id, last=1)
    ahead = [one for one in (store.assignment(other, person.id) for other in beside) if one.answer is None]
    standing = assignment.standing(store, person.id, plan)
    main = sum(one.purpose == plan.purpose and not one.repeat for one in ahead)
    practice = pair.purpose == "practice"
    note = ""
    if own and own[-1].purpose == "practice" and not ahead:
        note = _practised(own[-1]) + ("" if practice else " From here on your answers count.")
    return {
        "pair": pair,
        "practice": practice,
        "answered": standing.answered + main,
        "total": standing.answered + standing.left,
        "answers": standing.answers + len(ahead),
        "note": note,
        "can_undo": bool(ahead) or (bool(own) and store.revealed(own[-1].assignment, person.id) is None),
        "predicted": None if practice else _predicted(learning, person),
    }


def _practised(label: Label) -> str:
    if label.gold is None:
        return "Practice: there is no right answer here, and a tie is fine."
    if label.outcome == label.gold:
        return "Practice: yes, that response is the better one."
    return f"Practice: response {1 if label.left == label.gold else 2} was the better one."


def _predicted(learning: Learning, person: Annotator) -> dict[str, str] | None:
    """How often the model was right about the person's last choices."""
    if (learned := learning.learned) is None:
        return None
    labels, predicted = learned.choices.get(person.id, ([], []))
    if len(labels) < _FIRST:
        return None
    share = statistics.next_choice(labels[-_WINDOW:], predicted[-_WINDOW:])
    return {"right": f"{share.hits:g}", "of": f"{share.of}"}


def unfinished(store: Store, now: float) -> list[tuple[Progress, float]]:
    """What is still being made, and how many seconds ago it moved."""
    return [(one, now - one.at) for one in store.progress().values() if one.done < one.total]


def history(store: Store, person: Annotator, page: int) -> dict[str, Any]:
    """Own answers, the last first."""
    own = store.labels(annotator=person.id)[::-1]
    pages = max(1, -(-len(own) // _PAGE))
    page = min(max(1, page), pages)
    rows = [
        {"pair": pair, "prompt": asked(pair.prompt), "words": _words(label)}
        for label in own[_PAGE * (page - 1) : _PAGE * page]
        for pair in [store.assignment(label.assignment, person.id)]
    ]
    return {"rows": rows, "number": page, "pages": pages, "answers": len(own)}


def asked(prompt: Text) -> str:
    """A prompt in one piece: of a dialogue the last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def answered(store: Store, person: Annotator, pair: Assignment) -> dict[str, Any]:
    """One answer."""
    label = next((x for x in store.labels(annotator=person.id) if x.assignment == pair.id), None)
    revealed = store.revealed(pair.id, person.id)
    models = [one.name if one else "unknown" for one in revealed] if revealed else ["", ""]
    return {
        "pair": pair,
        "current": _answer(label) if label else "",
        "words": _words(label) if label else "not answered",
        "locked": revealed is not None,
        "models": models,
        "can_lock": label is not None and pair.purpose == "eval" and revealed is None,
    }


def done(store: Store, person: Annotator, plan: Plan) -> dict[str, Any]:
    """What a person's answers show."""
    own = counted(store.labels(annotator=person.id))
    standing = assignment.standing(store, person.id, plan)
    return {
        "answered": standing.answered,
        "left_over": standing.left,
        "pace": statistics.pace(own),
        "consistency": statistics.self_consistency(own),
        "left": statistics.always_left(own),
    }


def model(store: Store, learning: Learning, person: Annotator) -> dict[str, Any]:
    """How well the model predicts a person's next choice, and whether more votes would change it.

    The one who runs the project and does not vote sees this about everybody.
    """
    if (learned := learning.learned) is None:
        return {"learned": None, "problem": learning.problem}
    labels, predicted = learned.choices.get(person.id, ([], []))
    everybody = person.role == "owner" and not labels
    if everybody:
        labels, predicted = learned.choices[None]
    texts = store.completions({one for label in labels for one in (label.a, label.b)})
    return {
        "learned": learned,
        "everybody": everybody,
        "right": statistics.next_choice(labels, predicted),
        "last": statistics.next_choice(labels[-_WINDOW:], predicted[-_WINDOW:]),
        "window": _WINDOW,
        "first": _FIRST,
        "rules": [
            ("always the left response", statistics.always_left(labels)),
            ("always the longer response", statistics.always_longer(labels, texts)),
        ],
        "curve": curve(labels, predicted),
    }


def curve(labels: Sequence[Label], predicted: Sequence[float], width: float = 1040, height: float = 260) -> Any:
    """The share of right predictions in the last choices, and Wilson's interval, as points of a drawing."""
    if len(labels) < _FIRST:
        return None
    right = np.array(
        [0.5 if p == 0.5 else float((p > 0.5) == (x.outcome == "a")) for x, p in zip(labels, predicted, strict=True)]
    )
    total = np.concatenate([[0.0], right.cumsum()])
    ends = np.arange(_FIRST, len(labels) + 1)
    starts = np.maximum(0, ends - _WINDOW)
    n = ends - starts
    shares = (total[ends] - total[starts]) / n
    bands = [wilson(share * of, int(of)) for share, of in zip(shares, n, strict=True)]
    x = [float(width * (end - _FIRST) / max(1, len(labels) - _FIRST)) for end in ends]
    y = [height * (1 - share) for share in shares]
    upper = [(at, height * (1 - high)) for at, (_, high) in zip(x, bands, strict=True)]
    lower = [(at, height * (1 - low)) for at, (low, _) in zip(x, bands, strict=True)]
    return {"line": list(zip(x, y, strict=True)), "band": [*upper, *lower[::-1]], "first": _FIRST, "last": len(labels),
            "now": float(shares[-1]), "width": width, "height": height}  # fmt: skip
