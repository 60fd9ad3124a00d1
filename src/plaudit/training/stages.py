"""What each stage is made from."""

from importlib import import_module

from plaudit.data.splits import Part


def needs_of(stage: str) -> tuple[str, ...]:
    """The folders that a stage is made from, as its module declares them."""
    return import_module(f"plaudit.{'evaluation.evaluate' if stage == 'evaluation' else f'algorithms.{stage}'}").NEEDS


def ancestors(stage: str) -> set[str]:
    """Every stage that `stage` is made from, directly or not."""
    direct = set(needs_of(stage))
    return direct.union(*(ancestors(need) for need in direct))


def can_learn_from(stage: str, part: Part) -> bool:
    """Whether the judgements of a part are those that an algorithm learns from."""
    return bool(import_module(f"plaudit.algorithms.{stage}").can_learn_from(part))
