"""The committed notebooks, and the recipe that makes them. `make notebooks-check` runs all notebooks."""

import shutil

import nbformat
import pytest

from recipes import notebooks

SOURCES = notebooks.sources()
FIRST = "# %% [markdown]\n# # First\n\n# %%\nfrom pathlib import Path\n\nPath('result').write_text('3')\n"
SECOND = "# %%\nfrom pathlib import Path\n\nprint(2 + int(Path('result').read_text()))\n"


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_committed_notebooks_equal_their_sources_and_have_no_faults(source):
    assert notebooks.differences(source) == []
    assert notebooks.faults(nbformat.read(source.with_suffix(".ipynb"), as_version=4)) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_notebooks_define_no_class(source):
    assert not [line for line in source.read_text(encoding="utf-8").splitlines() if line.startswith("class ")]


def test_the_wheel_contains_every_notebook():
    pyproject = (notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for source in SOURCES:
        assert f'"notebooks/{source.stem}.ipynb" = "plaudit/lesson/notebooks/{source.stem}.ipynb"' in pyproject


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two small notebooks in the place of the real ones. The second needs a result of the first."""
    shutil.copy(notebooks.NOTEBOOKS / "jupytext.toml", tmp_path)
    (tmp_path / "1-first.py").write_text(FIRST)
    (tmp_path / "2-second.py").write_text(SECOND)
    monkeypatch.setattr(notebooks, "sources", lambda: sorted(tmp_path.glob("[0-9]-*.py")))
    return tmp_path


@pytest.mark.filterwarnings("default")  # the libraries that start a kernel warn
def test_notebooks_run_in_order_in_a_temporary_folder(folder, capsys):
    assert notebooks.main([]) == 0
    second = nbformat.read(folder / "2-second.ipynb", as_version=4)
    assert second.cells[0].outputs[0].text == "5\n"
    assert not (folder / "result").exists()

    (folder / "2-second.py").write_text("# %%\nimport sys\n\nprint('careful', file=sys.stderr)\n")
    before = (folder / "2-second.ipynb").read_bytes()
    capsys.readouterr()
    assert notebooks.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "2-second: 2-second.ipynb: cell 0 differs from 2-second.py; run make notebooks",
        "2-second: cell 0: stderr: careful",
    ]
    assert (folder / "2-second.ipynb").read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_a_failing_cell_stops_the_run(folder, capsys):
    (folder / "1-first.py").write_text("# %%\n1 / 0\n")
    assert notebooks.main([]) == 1
    printed = capsys.readouterr()
    assert "1-first: did not run to the end" in printed.err
    assert "ZeroDivisionError" in printed.err
    assert "2-second" not in printed.out


def test_a_run_that_takes_too_long_fails(folder, capsys, monkeypatch):
    monkeypatch.setattr(notebooks, "run", lambda notebook, where, seconds: None)
    monkeypatch.setattr(notebooks, "faults", lambda notebook: [])
    assert notebooks.main([]) == 0
    monkeypatch.setattr(notebooks, "TIME_LIMIT", -1)
    assert notebooks.main(["--check"]) == 1
    assert "the total of 0 s is more than -2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ({"output_type": "stream", "name": "stdout", "text": "FutureWarning: x"}, "a warning: FutureWarning: x"),
        ({"output_type": "stream", "name": "stdout", "text": "in /home/ann/runs"}, "a local path: /home/ann"),
        ({"output_type": "stream", "name": "stderr", "text": "hm"}, "stderr: hm"),
        ({"output_type": "stream", "name": "stdout", "text": "x is LEFT OUT: y"}, "x is LEFT OUT: y"),
        ({"output_type": "display_data", "data": {"text/html": "<i>Warning</i>"}, "metadata": {}}, "a warning"),
        ({"output_type": "error", "ename": "E", "evalue": "no", "traceback": []}, "E: no"),
        ({"output_type": "stream", "name": "stdout", "text": "x" * notebooks.MAX_BYTES}, "more than 1,500,000"),
        ({"output_type": "stream", "name": "stdout", "text": "runs/notebooks/sft, and 1/2"}, None),
        ({"output_type": "display_data", "data": {"image/png": "/tmp/x"}, "metadata": {}}, None),
    ],
)
def test_faults_in_outputs(output, fault):
    cell = nbformat.v4.new_code_cell("x", execution_count=1, outputs=[nbformat.from_dict(output)])
    found = notebooks.faults(nbformat.v4.new_notebook(cells=[cell]))
    assert found == [] if fault is None else len(found) == 1 and fault in found[0]


def test_a_cell_that_did_not_run_is_a_fault():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")])
    assert notebooks.faults(notebook) == ["cell 0: did not run"]
