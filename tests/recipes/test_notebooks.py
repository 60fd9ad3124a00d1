"""The committed notebooks as they are read, and the program that makes them. `make notebooks-check` runs them all."""

import shutil

import nbformat
import pytest

from recipes import notebooks as made

SOURCES = made.sources()
TWO = {
    "1-first.py": "# %% [markdown]\n# # First\n\n# %%\nfrom pathlib import Path\n\nPath('left').write_text('3')\n",
    "2-second.py": "# %%\nfrom pathlib import Path\n\nprint(2 + int(Path('left').read_text()))\n",
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_a_committed_notebook_is_its_source_run_without_a_complaint(source):
    assert made.differences(source) == []
    assert made.faults(nbformat.read(source.with_suffix(".ipynb"), as_version=4)) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_a_notebook_defines_no_class(source):
    assert not [line for line in source.read_text(encoding="utf-8").splitlines() if line.startswith("class ")]


def test_the_wheel_has_every_notebook():
    pyproject = (made.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert SOURCES
    for source in SOURCES:
        assert f'"notebooks/{source.stem}.ipynb" = "plaudit/lesson/notebooks/{source.stem}.ipynb"' in pyproject


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two small notebooks, in the place of the real ones."""
    shutil.copy(made.NOTEBOOKS / "jupytext.toml", tmp_path)
    for name, text in TWO.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(made, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(made, "sources", lambda: sorted(tmp_path.glob("[0-9]-*.py")))
    return tmp_path


@pytest.mark.filterwarnings("default")  # of the libraries that start a kernel
def test_they_run_in_order_in_one_fresh_folder_and_a_check_writes_nothing(folder, capsys):
    assert made.main([]) == 0
    second = nbformat.read(folder / "2-second.ipynb", as_version=4)
    assert second.cells[0].outputs[0].text == "5\n"
    assert "together: " in capsys.readouterr().out
    assert not (folder / "left").exists()

    (folder / "2-second.py").write_text("# %%\nimport sys\n\nprint('careful', file=sys.stderr)\n")
    before = (folder / "2-second.ipynb").read_bytes()
    assert made.main(["--check"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "2-second: 2-second.ipynb: cell 0 is not that of 2-second.py: make notebooks",
        "2-second: cell 0: stderr: careful",
    ]
    assert (folder / "2-second.ipynb").read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_a_cell_that_fails_ends_it(folder, capsys):
    (folder / "1-first.py").write_text("# %%\n1 / 0\n")
    assert made.main([]) == 1
    said = capsys.readouterr()
    assert "1-first: did not run to its end" in said.err
    assert "ZeroDivisionError" in said.err
    assert "2-second" not in said.out


def test_too_long_together_is_a_fault(folder, capsys, monkeypatch):
    monkeypatch.setattr(made, "run", lambda notebook, where, seconds: None)
    monkeypatch.setattr(made, "faults", lambda notebook: [])
    assert made.main(["--check"]) == 1  # not made yet
    for source in made.sources():
        nbformat.write(made.made_from(source), source.with_suffix(".ipynb"))
    assert made.main(["--check"]) == 0
    monkeypatch.setattr(made, "MOST_SECONDS", -1)
    assert made.main(["--check"]) == 1
    said = capsys.readouterr()
    assert "that is more than -1 s" in said.out
    assert "together they took 0 s, more than -2 s" in said.err


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (
            {"output_type": "stream", "name": "stdout", "text": "FutureWarning: x"},
            "cell 0: a warning: FutureWarning: x",
        ),
        ({"output_type": "stream", "name": "stdout", "text": "in /home/ann/runs"}, "a path of this machine: /home/ann"),
        ({"output_type": "stream", "name": "stderr", "text": "hm"}, "cell 0: stderr: hm"),
        ({"output_type": "stream", "name": "stdout", "text": "runs/notebooks/sft, and 1/2"}, None),
        ({"output_type": "stream", "name": "stdout", "text": "x is LEFT OUT: y"}, "cell 0: x is LEFT OUT: y"),
        ({"output_type": "display_data", "data": {"text/html": "<i>Warning</i>"}, "metadata": {}}, "a warning"),
        ({"output_type": "display_data", "data": {"image/png": "/tmp/x"}, "metadata": {}}, None),
        ({"output_type": "error", "ename": "E", "evalue": "no", "traceback": []}, "cell 0: E: no"),
        ({"output_type": "stream", "name": "stdout", "text": "x" * made.MOST_BYTES}, "bytes, more than 1,500,000"),
    ],
)
def test_what_a_reader_should_not_see(output, fault):
    cell = nbformat.v4.new_code_cell("x", execution_count=1, outputs=[nbformat.from_dict(output)])
    found = made.faults(nbformat.v4.new_notebook(cells=[cell]))
    assert (fault is None and found == []) or (len(found) == 1 and fault in found[0])


def test_a_cell_that_was_not_run_is_a_fault():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")])
    assert made.faults(notebook) == ["cell 0: was not run"]
