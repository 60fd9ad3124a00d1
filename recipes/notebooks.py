"""Make the notebooks from their paired .py sources, run in order in one fresh folder, each going on from the last.

    python recipes/notebooks.py            writes notebooks/*.ipynb with their outputs
    python recipes/notebooks.py --check    changes nothing; the committed cells must be those of the sources
    python recipes/notebooks.py --only 2 --in FOLDER    one of them, in a folder where the earlier ones have been run

It fails where a reader would see a complaint or a path of this machine, and where it takes far too long.
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
MOST_SECONDS = 12 * 60  # all of them together, on two cores that have nothing else to do
PATIENCE = 2  # times as long on a machine that has: it says so, and goes on
MOST_BYTES = 1_500_000  # each
# A path that only means something here. A path that a reader would have too begins with runs/ or with nothing.
_MACHINE = re.compile(
    r"(?<![\w.:/-])/(tmp|home|root|work|Users|usr|opt|var|private)/[\w.-]+|site-packages|ipykernel_\d+"
)


def sources(folder: Path = NOTEBOOKS) -> list[Path]:
    """The paired .py of every notebook, in order."""
    return sorted(folder.glob("[0-9]-*.py"))


def made_from(source: Path) -> Any:
    """The notebook of a source, without outputs; the same bytes every time."""
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
    """Execute in place, in `folder`, within `seconds`.

    Raises:
        nbclient's CellExecutionError or CellTimeoutError, with the cell.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=max(1, int(seconds)),
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel itself would warn that it listens on this machine
    )
    client.execute(cleanup_kc=True)
    # The version of Python that happened to run it is nobody's concern.
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})


def faults(notebook: Any) -> list[str]:
    """What a reader should not see in the outputs, and what is too large to read on the web."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            shown = " ".join(_texts(output))
            where = f"cell {number}: "
            if output.output_type == "error":
                found.append(where + f"{output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(where + "stderr: " + shown.strip()[:300])
            elif re.search(r"warning\b", shown, flags=re.IGNORECASE):
                found.append(where + "a warning: " + shown.strip()[:300])
            elif "LEFT OUT" in shown:  # what a notebook says where there was no network for its data
                found.append(where + shown.strip()[:300])
            if machine := _MACHINE.search(shown):
                found.append(where + f"a path of this machine: {machine.group()}")
        if cell.cell_type == "code" and cell.execution_count is None and cell.source.strip():
            found.append(f"cell {number}: was not run")
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        found.append(f"{size:,} bytes, more than {MOST_BYTES:,}")
    return found


def _texts(output: Any) -> list[str]:
    """Everything in an output that is text to read, traceback included; not the picture's bytes."""
    data = output.get("data", {})
    said = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
    said += [value for kind, value in data.items() if kind.startswith("text/")]
    return ["".join(text) for text in said]


def differences(source: Path) -> list[str]:
    """Where the committed notebook's cells are not those of its source."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing: make notebooks"]
    committed, made = nbformat.read(path, as_version=4), made_from(source)
    theirs, ours = ([(cell.cell_type, cell.source) for cell in n.cells] for n in (committed, made))
    if theirs == ours:
        return []
    first = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    return [f"{path.name}: cell {first} is not that of {source.name}: make notebooks"]


def main(argv: list[str] | None = None) -> int:
    """Run all the notebooks; 1 when anything is wrong with one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--only", metavar="N", help="only the notebook with this number")
    parser.add_argument(
        "--in", dest="folder", type=Path, help="where to run; a fresh folder, removed afterwards, if none"
    )
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="plaudit-notebooks-"))
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [s for s in sources() if args.only in (None, s.name[0])]
    wrong, began = [], time.monotonic()
    try:
        for source in chosen:
            wrong += [f"{source.stem}: {fault}" for fault in (differences(source) if args.check else [])]
            start, notebook = time.monotonic(), made_from(source)
            try:
                run(notebook, folder, PATIENCE * MOST_SECONDS - (start - began))
            except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
                print(f"{source.stem}: {error}", file=sys.stderr)
                wrong.append(f"{source.stem}: did not run to its end")
            found = faults(notebook)
            wrong += [f"{source.stem}: {fault}" for fault in found]
            size = len(nbformat.writes(notebook).encode())
            print(f"{source.stem}: {time.monotonic() - start:.0f} s, {size / 1000:,.0f} kB", flush=True)
            if not args.check:
                nbformat.write(notebook, source.with_suffix(".ipynb"))
            if any("did not run" in fault for fault in wrong):
                break  # the next one stands on this one
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"together: {seconds:.0f} s")
    if seconds > MOST_SECONDS:
        print(f"that is more than {MOST_SECONDS} s: a busy machine, or the notebooks have become too long")
    if seconds > PATIENCE * MOST_SECONDS:
        wrong.append(f"together they took {seconds:.0f} s, more than {PATIENCE * MOST_SECONDS} s")
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
