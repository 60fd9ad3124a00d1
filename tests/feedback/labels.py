"""Labels and responses as the store has them, made without a store."""

from plaudit.feedback.store import Completion, Label


def make_label(outcome, a=1, b=2, *, annotator=1, item=None, left="a", repeat=False, prompt=None, at=0.0, **others):
    item = 1000 * a + b if item is None else item
    values = {"purpose": "train", "gold": None, "round": 0, "strength": 1, "active_ms": 4000, "wall_ms": 5000} | others
    return Label(
        assignment=0, annotator=annotator, item=item, prompt=item if prompt is None else prompt, a=a, b=b,
        repeat=repeat, left=left, event=0, outcome=outcome, at=at, **values,
    )  # fmt: skip


def make_completion(name, text="a film", generator=None):
    return Completion(name, 0, text, generator, None, None, None, None)
