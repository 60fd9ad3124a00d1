"""What each stage is made from, and what a run directory holds besides the stages."""

from importlib import import_module
from pathlib import Path

from plaudit.data.splits import Part
from plaudit.files import remove_folder
from plaudit.training import ending, lock, manifest, trackers

# Settings that change no result; of `reward`, which only the stages that use it depend on, `Run.inputs` has an entry.
NO_RESULT: tuple[str, ...] = ("engine", "sharding", "microbatch_size", "save_every", "keep_checkpoints", "track")
NO_RESULT += ("reward", "reward_timeout")
MEMORY_FILE = "memory.json"  # bytes: predicted, and measured; they depend on the machine and differ from run to run
# Of plaudit methods: made from the SFT and reward model.
_COMPARISON = ("methods", "methods.json", "methods.csv", "methods-at-kl.csv")
OTHER_FILES = (
    *(manifest.FILE, "frontier", *_COMPARISON, "config.toml", "doctor.json", MEMORY_FILE, ending.FILE, *lock.FILES),
    trackers.FOLDER,
    *("feedback", "compare", "rounds"),  # of plaudit label, plaudit compare and plaudit loop
)


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


def remove(path: Path, stage: str) -> None:
    """Remove a stage's results from a run directory, and those of commands that used its model."""
    if stage == "evaluation":
        for name in (*manifest.EVALUATION_FILES, manifest.FILE):
            (path / name).unlink(missing_ok=True)
    else:
        folder, *files = _COMPARISON if stage in ("sft", "reward_model") else ("frontier",)
        for each in (stage, f"{trackers.FOLDER}/{stage}", "frontier", folder):  # the others were made with this model
            remove_folder(path / each)
        for file in files:
            (path / file).unlink(missing_ok=True)
