"""The notebooks that come with plaudit: in the installed package, or in a checkout of the source."""

from __future__ import annotations

from pathlib import Path

from plaudit.errors import RunError

_INSTALLED = Path(__file__).parent / "notebooks"
_CHECKOUT = Path(__file__).parents[3] / "notebooks"


def shipped() -> list[Path]:
    """The notebooks in reading order.

    Raises:
        RunError: this installation contains no notebooks.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if found := sorted(folder.glob("[0-9]-*.ipynb")):
            return found
    raise RunError(f"this installation contains no notebooks (looked in {_INSTALLED}); install plaudit again")


def copy_to(directory: Path, *, overwrite: bool) -> list[Path]:
    """Copy all notebooks into `directory`.

    Args:
        overwrite: replace files that have a notebook's name.

    Returns:
        paths of the copies.

    Raises:
        RunError: a file of that name exists and `overwrite` is False, or the directory cannot be written.
    """
    targets = [directory / notebook.name for notebook in shipped()]
    existing = [target for target in targets if target.exists()]
    if existing and not overwrite:
        raise RunError(
            f"{existing[0]}: already exists and may contain your work; use --overwrite, or choose another folder"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for notebook, target in zip(shipped(), targets, strict=True):
            target.write_bytes(notebook.read_bytes())
    except OSError as error:
        raise RunError(f"{directory}: cannot write the notebooks: {error.strerror}") from None
    return targets
