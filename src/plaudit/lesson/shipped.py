"""The notebooks that come with plaudit: inside the wheel, or beside the source that is worked on."""

from __future__ import annotations

from pathlib import Path

from plaudit.errors import RunError

_IN_WHEEL = Path(__file__).parent / "notebooks"
_IN_SOURCE = Path(__file__).parents[3] / "notebooks"


def shipped() -> list[Path]:
    """The notebooks, in the order in which to read them.

    Raises:
        RunError: this installation has none.
    """
    for folder in (_IN_WHEEL, _IN_SOURCE):
        if found := sorted(folder.glob("[0-9]-*.ipynb")):
            return found
    raise RunError(f"no notebooks came with this installation (looked in {_IN_WHEEL}); install plaudit again")


def copy_to(directory: Path, *, overwrite: bool) -> list[Path]:
    """Copy the notebooks into `directory`, all or none of them.

    Args:
        overwrite: replace what has a notebook's name there.

    Returns:
        where they are now.

    Raises:
        RunError: one is there already, or the folder cannot be written.
    """
    notebooks = shipped()
    there = [directory / n.name for n in notebooks if (directory / n.name).exists()]
    if there and not overwrite:
        raise RunError(
            f"{there[0]}: is there already, and may hold your work; use --overwrite, or choose another folder"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for notebook in notebooks:
            (directory / notebook.name).write_bytes(notebook.read_bytes())
    except OSError as error:
        raise RunError(f"{directory}: the notebooks cannot be written there: {error.strerror}") from None
    return [directory / n.name for n in notebooks]
