"""Run the notebooks' .py sources in order, in one folder, and write the .ipynb files with their outputs.

    python recipes/notebooks.py            writes notebooks/*.ipynb
    python recipes/notebooks.py --check    writes nothing; the cells of the committed .ipynb must equal the sources
    python recipes/notebooks.py --only 2 --in FOLDER    runs one notebook in a folder with the results of the others

The exit code is 1 if an output contains an error, a warning or a local path, or if the run takes far too long.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
TIME_LIMIT = 16 * 60  # seconds for all notebooks together, on two free cores
PATIENCE = 2  # a busy machine may take this many times as long, with a message
MAX_BYTES = 1_500_000  # of one notebook
# Absolute paths of the machine that ran the notebooks. Readers have other paths.
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/-])/(tmp|home|root|work|Users|usr|opt|var|private)/[\w.-]+|site-packages|ipykernel_\d+"
)


def sources(folder: Path = NOTEBOOKS) -> list[Path]:
    """The .py sources of the notebooks, in order."""
    return sorted(folder.glob("[0-9]-*.py"))


def from_source(source: Path) -> Any:
    """The notebook of a .py source, without outputs. The same source always gives the same bytes."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.NotebookNode()
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: Any, folder: Path, seconds: float) -> None:
    """Execute a notebook in place, with `folder` as the working directory.

    Raises:
        nbclient.exceptions.CellExecutionError, CellTimeoutError: a cell failed, or took more than `seconds`.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=max(1, int(seconds)),
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # hides the kernel's warning that it listens on a local port
    )
    client.execute(cleanup_kc=True)
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})  # without the Python version


def faults(notebook: Any) -> list[str]:
    """Problems in the outputs: errors, warnings, local paths, cells that did not run, too many bytes."""
    found = []
    for number, cell in enumerate(notebook.cells):
        where = f"cell {number}: "
        for output in cell.get("outputs", []):
            text = " ".join(_texts(output))
            if output.output_type == "error":
                found.append(where + f"{output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(where + "stderr: " + text.strip()[:300])
            elif re.search(r"warning\b", text, flags=re.IGNORECASE):
                found.append(where + "a warning: " + text.strip()[:300])
            elif "LEFT OUT" in text:  # notebook 2 prints this if it cannot download its data
                found.append(where + text.strip()[:300])
            if path := _LOCAL_PATH.search(text):
                found.append(where + f"a local path: {path.group()}")
        if cell.cell_type == "code" and cell.execution_count is None and cell.source.strip():
            found.append(where + "did not run")
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        found.append(f"{size:,} bytes, more than {MAX_BYTES:,}")
    return found


def _texts(output: Any) -> list[str]:
    """All text of an output, traceback included, without images."""
    texts = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
    texts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return ["".join(text) for text in texts]


def differences(source: Path) -> list[str]:
    """Where the cells of the committed notebook differ from the source."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing; run make notebooks"]
    committed, expected = (
        [(cell.cell_type, cell.source) for cell in notebook.cells]
        for notebook in (nbformat.read(path, as_version=4), from_source(source))
    )
    if committed == expected:
        return []
    shorter = min(len(committed), len(expected))
    first = next((i for i in range(shorter) if committed[i] != expected[i]), shorter)
    return [f"{path.name}: cell {first} differs from {source.name}; run make notebooks"]


def main(argv: list[str] | None = None) -> int:
    """Run the notebooks. Returns 1 if there is a problem, 0 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and compare the committed notebooks")
    parser.add_argument("--only", metavar="N", help="run only the notebook with this number")
    parser.add_argument(
        "--in", dest="folder", type=Path, help="working directory (default: a temporary one, removed at the end)"
    )
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="plaudit-notebooks-"))
    folder.mkdir(parents=True, exist_ok=True)
    problems, began = [], time.monotonic()
    try:
        for source in (s for s in sources() if args.only in (None, s.name[0])):
            if args.check:
                problems += [f"{source.stem}: {difference}" for difference in differences(source)]
            start, notebook = time.monotonic(), from_source(source)
            finished = True
            try:
                run(notebook, folder, PATIENCE * TIME_LIMIT - (start - began))
            except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
                print(f"{source.stem}: {error}", file=sys.stderr)
                problems.append(f"{source.stem}: did not run to the end")
                finished = False
            problems += [f"{source.stem}: {fault}" for fault in faults(notebook)]
            size = len(nbformat.writes(notebook).encode())
            print(f"{source.stem}: {time.monotonic() - start:.0f} s, {size / 1000:,.0f} kB", flush=True)
            if not args.check:
                nbformat.write(notebook, source.with_suffix(".ipynb"))
            if not finished:
                break  # the next notebook needs the results of this one
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"total: {seconds:.0f} s")
    if seconds > TIME_LIMIT:
        print(f"this is more than {TIME_LIMIT} s: the machine is busy, or the notebooks take too long")
    if seconds > PATIENCE * TIME_LIMIT:
        problems.append(f"the total of {seconds:.0f} s is more than {PATIENCE * TIME_LIMIT} s")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
