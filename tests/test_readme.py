"""The documents stay true: commands parse, settings have valid values, make targets, links and imports exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from plaudit.cli import commands as cli
from plaudit.cli.flags import by_full_name
from plaudit.config import resolve

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md"))),
)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
README = TEXTS["README.md"]


def blocks(text, language):
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(program):
    """Commands of `program`: lines of shell blocks without their comments, and inline code."""
    lines = [line for text in TEXTS.values() for block in blocks(text, "sh") for line in block.splitlines()]
    lines += [code for text in TEXTS.values() for code in re.findall(r"`([^`\n]+)`", text)]
    return sorted({re.sub(r"\s+#.*", "", line) for line in lines if line.startswith(f"{program} ")})


def test_the_readme_shows_commands():
    shown = "\n".join(blocks(README, "sh"))
    assert "make demo" in shown
    assert "make test" in shown
    assert shown.count("plaudit run") >= 3


@pytest.mark.parametrize("command", [c for c in commands("plaudit") if "COMMAND" not in c])
def test_every_command_and_its_settings_are_valid(command):
    name, *words = shlex.split(command)[1:]
    group = cli.make_context("plaudit", [name])
    if words:  # otherwise a command's name in the text, without the arguments that it needs
        resolve(by_full_name(cli.commands[name].make_context(name, words, parent=group).params))
    assert name in cli.commands


@pytest.mark.parametrize("command", commands("make"))
def test_every_make_target_exists(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in command.split()[1:]:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_linked_file_exists(name):
    links = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[name]))
    missing = [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert missing == []


def test_python_examples_compile_and_import_what_exists():
    examples = [code for name in ("README.md", "CONTRIBUTING.md") for code in blocks(TEXTS[name], "python")]
    assert len(examples) >= 3
    for code in examples:
        compile(code, "example", "exec")
        for module, names in re.findall(r"^from (plaudit\S*) import (.+)$", code, flags=re.MULTILINE):
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), (module, name)


def test_the_script_of_a_researcher_is_that_of_the_examples():
    script = (ROOT / "examples" / "research.py").read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert script in blocks(README, "python")
