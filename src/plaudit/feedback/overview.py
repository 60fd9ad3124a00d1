"""What the one who runs a project sees: results, people, the worth of the data, files. Plain values for templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plaudit.feedback import assignment, screens, statistics
from plaudit.feedback.assignment import Plan
from plaudit.feedback.store import Annotator, Store

_WORKING = 120.0  # seconds after an answer in which somebody is at work


@dataclass(frozen=True)
class Export:
    """A file that the page offers; the key in EXPORTS is that of `exchange.FORMS`."""

    title: str
    file: str
    media_type: str
    names_models: bool  # which nobody may see whose own answers are not final


EXPORTS = {
    "preferences": Export("Preferences (JSONL)", "preferences.jsonl", "application/jsonl", False),
    "conversations": Export("Conversations (JSONL)", "conversations.jsonl", "application/jsonl", False),
    "csv": Export("Votes (CSV)", "votes.csv", "text/csv", True),
    "all": Export("Everything (JSONL)", "everything.jsonl", "application/jsonl", True),
}


def unlocked(store: Store, person: Annotator) -> int:
    """A person's answers in a blind comparison that are not final yet."""
    labels = store.labels("eval", person.id)
    return sum(store.revealed(label.assignment, person.id) is None for label in labels)


def results(store: Store, person: Annotator) -> dict[str, Any]:
    """Wins of one model over another."""
    labels = store.labels("eval", None if person.role == "owner" else person.id)
    hidden = unlocked(store, person)
    rows = []
    if not hidden:  # nobody should see which model is ahead before the own answers are final
        texts = store.completions({one for label in labels for one in (label.a, label.b)})
        names = store.generators()
        writers = [(texts[label.a].generator, texts[label.b].generator) for label in labels]
        pairs = sorted({(min(a, b), max(a, b)) for a, b in writers if a is not None and b is not None and a != b})
        rows = [(names[new].name, names[old].name, statistics.win_rate(labels, texts, new, old)) for old, new in pairs]
    return {"rows": rows, "hidden": hidden, "votes": len(labels), "everybody": person.role == "owner"}


def people(store: Store, plan: Plan, now: float) -> list[dict[str, Any]]:
    """Who is where."""
    labels, rows = store.labels(), []
    for one in store.annotators():
        own = [label for label in labels if label.annotator == one.id]
        last = own[-1].at if own else None
        counts, standing = screens.counted(own), assignment.standing(store, one.id, plan)
        idle = now - (one.joined if last is None else last)
        rows.append(
            {
                "name": one.name,
                "role": one.role,
                "answers": standing.answered,
                "total": standing.answered + standing.left,
                "practising": bool(own) and not counts,
                "state": _state(bool(own), standing.left, idle),
                "idle": None if last is None else idle,
                "pace": statistics.pace(counts),
                "consistency": statistics.self_consistency(counts),
                "left": statistics.always_left(counts),
                "gold": statistics.gold(counts),
            }
        )
    return rows


def _state(begun: bool, left: int, idle: float) -> str:
    if not begun:
        return "not begun"
    return "finished" if not left else "working" if idle < _WORKING else "away"


def classroom(store: Store, plan: Plan, now: float) -> dict[str, Any]:
    """Who is where, for a screen that everybody sees."""
    rows = people(store, plan, now)
    rows = [row for row in rows if row["role"] != "owner" or row["answers"]]
    return {
        "people": rows,
        "answers": sum(row["answers"] for row in rows),
        "working": sum(row["state"] == "working" for row in rows),
    }


def health(store: Store, plan: Plan, now: float) -> dict[str, Any]:
    """What the data are worth."""
    from plaudit.feedback import biases  # imports scipy, for which no other page should wait

    labels = screens.counted(store.labels())
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
            {
                "prompt": screens.asked(prompts[items[item].prompt]),
                "a": texts[items[item].a].text,
                "b": texts[items[item].b].text,
                "votes": votes,
            }
            for item, votes in disputed
        ],
        "exports": EXPORTS,
    }
