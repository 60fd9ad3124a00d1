"""What each page shows, as plain values for its template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plaudit.feedback import assignment, statistics
from plaudit.feedback.assignment import Plan
from plaudit.feedback.learning import Learning
from plaudit.feedback.store import Annotator, Assignment, Label, Progress, Store
from plaudit.maths.intervals import wilson
from plaudit.records import Text, asking

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
_WORKING = 120.0  # seconds after an answer in which somebody is at work
_WINDOW = 30  # choices over which the curve of the model's accuracy is averaged
_ANSWERS = {"tie": "Tie", "both_bad": "Both bad", "skip": "Skipped"}


def add_practice(store: Store) -> None:
    """Two pairs to practise on, if the project has none of its own."""
    if not store.items("practice"):
        for prompt, a, b, gold in PRACTICE:
            ids = [store.add_completion(prompt, text) for text in (a, b)]
            store.add_item(*ids, purpose="practice", gold=gold)


def _counted(labels: Sequence[Label]) -> list[Label]:
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
        "begun": bool(store.labels(annotator=person.id)),
        "answered": standing.answered,
        "total": standing.answered + standing.left,
    }


def pair(
    store: Store, person: Annotator, plan: Plan, pair: Assignment, learning: Learning, beside: Sequence[int]
) -> dict[str, Any]:
    """Two responses to compare, after those of the assignments `beside`, which are on the page already."""
    own = store.labels(annotator=person.id)
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
        "answers": len(own) + len(ahead),
        "note": note,
        "can_undo": bool(ahead) or bool(own) and store.revealed(own[-1].assignment, person.id) is None,
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
    if (found := _choices(learning, person)) is None or len(found[0]) < 10:
        return None
    share = statistics.next_choice(found[0][-_WINDOW:], found[1][-_WINDOW:])
    return {"right": f"{share.hits:g}", "of": f"{share.of}"}


def _choices(learning: Learning, person: Annotator) -> tuple[list[Label], list[float]] | None:
    """A person's choices between two responses, and what was predicted about each."""
    if (learned := learning.learned) is None:
        return None
    own = [
        (label, float(chance))
        for label, chance in zip(learned.labels, learned.predicted, strict=True)
        if label.annotator == person.id and label.outcome in ("a", "b") and not label.repeat
    ]
    return [label for label, _ in own], [chance for _, chance in own]


def unfinished(store: Store, now: float) -> list[tuple[Progress, float]]:
    """What is still being made, and how many seconds ago it moved."""
    return [(one, now - one.at) for one in store.progress().values() if one.done < one.total]


def history(store: Store, person: Annotator, page: int) -> dict[str, Any]:
    """Own answers, the last first."""
    own = store.labels(annotator=person.id)[::-1]
    pages = max(1, -(-len(own) // _PAGE))
    page = min(max(1, page), pages)
    rows = [
        {"pair": store.assignment(label.assignment, person.id), "words": _words(label), "label": label}
        for label in own[_PAGE * (page - 1) : _PAGE * page]
    ]
    for row in rows:
        row["prompt"] = _asked(row["pair"].prompt)
    return {"rows": rows, "number": page, "pages": pages, "answers": len(own)}


def _asked(prompt: Text) -> str:
    return asking(prompt) if isinstance(prompt, str) else prompt[-1].content


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
    own = _counted(store.labels(annotator=person.id))
    standing = assignment.standing(store, person.id, plan)
    return {
        "answered": standing.answered,
        "left_over": standing.left,
        "pace": statistics.pace(own),
        "consistency": statistics.self_consistency(own),
        "left": statistics.always_left(own),
    }


def model(store: Store, learning: Learning, person: Annotator) -> dict[str, Any]:
    """How well the model predicts a person's next choice, and whether more votes would change it."""
    found = _choices(learning, person)
    if found is None or learning.learned is None:
        return {"learned": None, "problem": learning.problem}
    labels, predicted = found
    texts = store.completions({one for label in labels for one in (label.a, label.b)})
    return {
        "learned": learning.learned,
        "problem": "",
        "right": statistics.next_choice(labels, predicted),
        "last": statistics.next_choice(labels[-_WINDOW:], predicted[-_WINDOW:]),
        "window": _WINDOW,
        "rules": [
            ("always the left response", statistics.always_left(labels)),
            ("always the longer response", statistics.always_longer(labels, texts)),
        ],
        "curve": curve(labels, predicted),
    }


def curve(labels: Sequence[Label], predicted: Sequence[float], width: float = 700, height: float = 260) -> Any:
    """The share of right predictions in the last choices, and Wilson's interval, as points of a drawing."""
    if len(labels) < 10:
        return None
    right = np.array([0.5 if p == 0.5 else float((p > 0.5) == (x.outcome == "a")) for x, p in zip(labels, predicted, strict=True)])
    total = np.concatenate([[0.0], right.cumsum()])
    ends = np.arange(10, len(labels) + 1)
    starts = np.maximum(0, ends - _WINDOW)
    n = ends - starts
    shares = (total[ends] - total[starts]) / n
    bands = [wilson(share * of, int(of)) for share, of in zip(shares, n, strict=True)]
    x = [float(width * (end - 10) / max(1, len(labels) - 10)) for end in ends]
    y = [height * (1 - share) for share in shares]
    upper = [(at, height * (1 - high)) for at, (_, high) in zip(x, bands, strict=True)]
    lower = [(at, height * (1 - low)) for at, (low, _) in zip(x, bands, strict=True)]
    return {"line": list(zip(x, y, strict=True)), "band": [*upper, *lower[::-1]], "first": 10, "last": len(labels),
            "now": float(shares[-1])}  # fmt: skip


def results(store: Store, person: Annotator) -> dict[str, Any]:
    """Wins of one model over another."""
    labels = store.labels("eval", None if person.role == "owner" else person.id)
    own = [label for label in labels if label.annotator == person.id]
    hidden = sum(store.revealed(label.assignment, person.id) is None for label in own)
    rows = []
    if not hidden:  # nobody should see which model is ahead before the own answers are final
        texts = store.completions({one for label in labels for one in (label.a, label.b)})
        names = store.generators()
        pairs = {tuple(sorted(w)) for x in labels if None not in (w := {texts[x.a].generator, texts[x.b].generator}) and len(w) == 2}
        rows = [(names[new].name, names[old].name, statistics.win_rate(labels, texts, new, old)) for old, new in sorted(pairs)]
    return {"rows": rows, "hidden": hidden, "votes": len(labels), "everybody": person.role == "owner"}


def people(store: Store, plan: Plan, now: float) -> list[dict[str, Any]]:
    """Who is where."""
    labels, rows = store.labels(), []
    for one in store.annotators():
        own = [label for label in labels if label.annotator == one.id]
        last = own[-1].at if own else None
        counted, standing = _counted(own), assignment.standing(store, one.id, plan)
        idle = now - (one.joined if last is None else last)
        state = "finished" if own and not standing.left else "working" if idle < _WORKING else "away" if own else "not begun"
        rows.append(
            {
                "name": one.name,
                "role": one.role,
                "answers": standing.answered,
                "total": standing.answered + standing.left,
                "practising": bool(own) and not counted,
                "state": state,
                "idle": None if last is None else idle,
                "pace": statistics.pace(counted),
                "consistency": statistics.self_consistency(counted),
                "left": statistics.always_left(counted),
                "gold": statistics.gold(counted),
            }
        )
    return rows


def classroom(store: Store, plan: Plan, now: float) -> dict[str, Any]:
    """Who is where, for a screen that everybody sees."""
    rows = people(store, plan, now)
    rows = [row for row in rows if row["role"] != "owner" or row["answers"]]
    return {"people": rows, "answers": sum(row["answers"] for row in rows), "working": sum(row["state"] == "working" for row in rows)}


def health(store: Store, plan: Plan, now: float) -> dict[str, Any]:
    """What the data are worth."""
    from plaudit.feedback import biases  # imports scipy, for which no other page should wait

    labels = _counted(store.labels())
    texts = store.completions({one for label in labels for one in (label.a, label.b)})
    ids = sorted({label.annotator for label in statistics.answered(labels)})
    disputed = statistics.disputed(labels)
    items = {item.id: item for item in store.items()}
    prompts = store.prompts(items[item].prompt for item, _ in disputed)
    kinds = [label.outcome for label in labels]
    return {
        "people": people(store, plan, now),
        "pairs": sum(item.purpose != "practice" for item in items.values()),
        "asked": len({label.item for label in labels}),
        "votes": len(labels),
        "kinds": {
            "choices": sum(kind in ("a", "b") for kind in kinds),
            "ties": kinds.count("tie"),
            "both bad": kinds.count("both_bad"),
            "skipped": kinds.count("skip"),
        },
        "agreement": statistics.agreement(labels),
        "two": statistics.two_people(labels, *ids) if len(ids) == 2 else None,
        "consistency": statistics.self_consistency(labels),
        "gold": statistics.gold(labels),
        "left": statistics.always_left(labels),
        "longer": statistics.always_longer(labels, texts),
        "effects": biases.effects(labels, texts),
        "disputed": [
            {"prompt": _asked(prompts[items[item].prompt]), "a": texts[items[item].a].text, "b": texts[items[item].b].text, "votes": votes}
            for item, votes in disputed
        ],
        "exports": {},
    }
