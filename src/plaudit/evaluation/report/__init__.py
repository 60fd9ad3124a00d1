"""`report.html`: a run directory as one page that opens anywhere, without a network and without scripts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from plaudit.errors import RunError
from plaudit.evaluation.report import sections
from plaudit.evaluation.report.details import details
from plaudit.evaluation.report.files import RunFiles, read_run
from plaudit.evaluation.report.fragments import inert

_PARTS = (
    sections.opening,
    sections.training,
    sections.frontier,
    sections.samples,
    sections.held_out,
    sections.reward_model,
    sections.earlier_stages,
    details,
)


def write_report(directory: Path) -> Path:
    """Write `report.html` into a run directory, from nothing but the files in it.

    Args:
        directory: of a run; it may be unfinished: everything but `config.toml` may be missing.

    Returns:
        The path of the page. The same files give the same page, byte for byte.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
        RunError: the page cannot be written.
    """
    page = _page(read_run(directory))
    path = directory / "report.html"
    draft = directory / "report.html.part"  # nobody opens half a page
    try:
        draft.write_bytes(page.encode("utf-8"))
        draft.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _page(run: RunFiles) -> str:
    css = resources.files("plaudit.evaluation.report").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(filter(None, (part(run) for part in _PARTS)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{inert(run.name)}: a plaudit run</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "<footer>Written by plaudit from the files of the run directory alone.</footer>\n</main>\n</body>\n</html>\n"
    )
