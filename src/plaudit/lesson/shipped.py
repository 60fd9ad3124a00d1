"""The notebooks that come with plaudit: in the installed package, or in a checkout of the source."""

from pathlib import Path

from plaudit.errors import RunError

_INSTALLED = Path(__file__).parent / "notebooks"
_CHECKOUT = Path(__file__).parents[3] / "notebooks"


def shipped() -> list[Path]:
    """The notebooks in reading order; a RunError if this installation contains none."""
    for folder in (_INSTALLED, _CHECKOUT):
        if found := sorted(folder.glob("[0-9]-*.ipynb")):
            return found
    raise RunError(f"this installation contains no notebooks (looked in {_INSTALLED}); install plaudit again")


def copy_to(directory: Path, *, overwrite: bool) -> list[Path]:
    """Copy all notebooks into `directory`; returns the paths of the copies.

    Raises:
        RunError: a file of that name exists and `overwrite` is False, or the directory cannot be written.
    """
    copies = {directory / notebook.name: notebook for notebook in shipped()}
    for path in copies:
        if path.exists() and not overwrite:
            raise RunError(
                f"{path}: already exists and may contain your work; use --overwrite, or choose another folder"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, notebook in copies.items():
            path.write_bytes(notebook.read_bytes())
    except OSError as error:
        raise RunError(f"{directory}: cannot write the notebooks: {error.strerror}") from None
    return list(copies)
