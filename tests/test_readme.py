"""The README's commands are commands: each parses, and each make target exists."""

import re
import shlex
from pathlib import Path

import pytest

from plaudit.cli import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:\$ )?(plaudit .+?|make .+?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def test_the_readme_shows_commands():
    assert "make demo" in COMMANDS
    assert "make test" in COMMANDS
    assert sum(c.startswith("plaudit run") for c in COMMANDS) >= 3


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("plaudit ")}))
def test_every_command_is_understood(command):
    name, *words = shlex.split(command)[1:]
    group = commands.make_context("plaudit", [name], obj={"flags": {}})
    commands.commands[name].make_context(name, words, parent=group)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make ")}))
def test_every_make_target_exists(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in command.split()[1:]:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_file_that_it_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
