"""The public API: the names, that they come late, what docs/api.md says of them, and runs opened in Python."""

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plaudit
from plaudit.config import build
from plaudit.errors import ConfigError, DataError, RunError
from plaudit.training import lock

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FUNCTIONS = [name for name in plaudit.__all__ if inspect.isfunction(getattr(plaudit, name))]
ROWS = [(f"film {i} is {'warm and moving' if i % 2 else 'dull and tired'}", i % 2) for i in range(200)]


def signature(name):
    """`name` with its parameters and defaults, without types."""
    value = getattr(plaudit, name)
    parameters = inspect.signature(value).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return name + str(inspect.Signature(plain))


def test_every_name_exists_and_is_listed():
    assert list(plaudit.__all__) == sorted(plaudit.__all__)
    assert sorted(name for names in plaudit._MODULES.values() for name in names) == plaudit.__all__
    for name in plaudit.__all__:
        assert getattr(plaudit, name).__name__ == name
        assert name in dir(plaudit)
    with pytest.raises(AttributeError, match=r"docs/api\.md"):
        plaudit.no_such_name  # noqa: B018


def test_type_checkers_see_the_same_names():
    source = (ROOT / "src" / "plaudit" / "__init__.py").read_text(encoding="utf-8")
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    found = [
        (module, name)
        for module, names in re.findall(r"from plaudit\.(\S+) import (.+)", block)
        for name in names.split(", ")
    ]
    assert sorted(found) == sorted((module, name) for module, names in plaudit._MODULES.items() for name in names)


def test_nothing_heavy_is_imported_before_it_is_used():
    code = "import sys, plaudit; plaudit.Comparison; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "set()\n"


def test_the_page_has_every_name_with_its_signature_and_no_other():
    headings = re.findall(r"^### `(.+)`$", PAGE, flags=re.MULTILINE)
    classes = [name for name in plaudit.__all__ if name not in FUNCTIONS]
    assert sorted(headings) == sorted([*map(signature, FUNCTIONS), *classes])
    assert "Everything else may change" in PAGE


@pytest.mark.parametrize("name", plaudit.__all__)
def test_every_docstring_has_what_is_needed(name):
    """Functions say their errors, and their arguments where they are not the run alone; records say their fields."""
    value = getattr(plaudit, name)
    text = inspect.getdoc(value)
    assert text
    assert text != inspect.getdoc(object)
    if name in FUNCTIONS:
        assert "Raises:" in text
        given = [p for p in inspect.signature(value).parameters if p not in ("run", "stage")]
        assert not given or "Args:" in text


@pytest.fixture
def settings(tiny_config):
    """Those of tiny_config, as a nested dictionary without the data."""
    return {k: v for k, v in dataclasses.asdict(tiny_config).items() if k != "data"}


def shortness(prompts, responses):
    return [-float(len(response)) for response in responses]


def test_a_run_on_data_in_memory_stops_and_goes_on(tmp_path, settings):
    run = plaudit.open_run(tmp_path / "run", ROWS, settings)
    assert run.config.data.name == plaudit.load(ROWS).name
    reports = plaudit.steps(run, ("sft", "ppo", "evaluation"), reward=shortness)
    for report in reports:
        if (report.stage, report.step) == ("ppo", 3):
            break
    reports.close()
    lock.release(run.path)
    again = plaudit.open_run(tmp_path / "run", ROWS)  # its settings are those that it was begun with
    assert again.config == run.config
    rest = [(r.stage, r.step) for r in plaudit.steps(again, ("sft", "ppo", "evaluation"), reward=shortness)]
    assert rest[:2] == [("ppo", 3), ("ppo", 4)]
    assert rest[-1][0] == "evaluation"
    straight = plaudit.open_run(tmp_path / "straight", ROWS, settings)
    list(plaudit.steps(straight, ("sft", "ppo"), reward=shortness))
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (again.path / "ppo" / name).read_bytes() == (straight.path / "ppo" / name).read_bytes()
    found = plaudit.sample(run.path, "film 3", n=2, reward=shortness)
    assert [set(line) for line in found] == [{"prompt", "sft", "policy", "sft_score", "policy_score"}] * 2


def test_other_data_settings_and_stages(tmp_path, settings):
    run = plaudit.open_run(str(tmp_path / "run"), ROWS, settings)
    list(plaudit.steps(run, ["sft"]))
    with pytest.raises(RunError, match="its sft was made from other data"):
        plaudit.open_run(run.path, ROWS[:-1])
    with pytest.raises(RunError, match=r"its sft was made with sft\.lr"):
        plaudit.open_run(run.path, ROWS, {"sft.lr": 0.5})
    with pytest.raises(ConfigError, match="overwrite: no stage 'rm'"):
        plaudit.open_run(run.path, ROWS, overwrite=["rm"])
    with pytest.raises(ConfigError, match=r"unknown setting 'ppo\.klcoef'"):
        plaudit.open_run(run.path, ROWS, {"ppo": {"klcoef": 1}})
    assert plaudit.open_run(run.path, ROWS, {"ppo.lr": 0.5}).complete("sft")
    assert plaudit.open_run(run.path, ROWS, overwrite=["ppo"]).config.ppo.lr == 0.5
    again = plaudit.open_run(run.path, ROWS, settings, overwrite=True)
    assert not again.complete("sft")
    assert again.config.ppo.lr == settings["ppo"]["lr"]


def test_the_data_of_a_run_in_another_process_are_asked_for(tmp_path, settings):
    path = plaudit.open_run(tmp_path / "run", ROWS, settings).path
    lock.release(path)
    code = f"import plaudit; plaudit.open_run({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(r"DataError: memory-\w{12}: .* pass them again", done.stderr)


def test_a_toml_file_a_preset_and_the_layers(tmp_path):
    (tmp_path / "own.toml").write_text("seed = 7\n[ppo]\nlr = 0.5\n", encoding="utf-8")
    run = plaudit.open_run(tmp_path / "run", settings=tmp_path / "own.toml", preset="smollm2")
    assert run.config == run.resolved(build(plaudit.pipeline.settings_of("smollm2"), {"seed": 7, "ppo.lr": 0.5}))


def test_nothing_is_written_for_data_that_cannot_be_learned_from(tmp_path):
    with pytest.raises(DataError, match="no records are left"):
        plaudit.open_run(tmp_path / "run", ROWS[:2])
    assert not (tmp_path / "run").exists()


def test_several_stages_are_checked_before_the_first_is_trained(tmp_path, settings):
    run = plaudit.open_run(tmp_path / "run", [text for text, _ in ROWS], settings)
    with pytest.raises(DataError, match="neither labels nor comparisons"):
        next(plaudit.steps(run))
    assert not (run.path / "sft").exists()
