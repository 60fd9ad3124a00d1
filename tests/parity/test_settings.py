"""The defaults in the tables of docs/from-trl.md are those of TRL, from the fixture, and ours."""

import re
from pathlib import Path

import pytest

from plaudit.config import Config
from tests.parity.steps import FIXTURE

PAGE = (Path(__file__).parents[2] / "docs" / "from-trl.md").read_text(encoding="utf-8")
HEADER = re.compile(r"\| `(\w+Config)` \| default \| plaudit's `--(\w+)\.` \| default \|")
NAME = re.compile(r"^`(\w+)`(?: \(.*\))?$")


def tables():
    """(config, section, the first four cells of each row) of every table of settings."""
    for block in PAGE.split("\n\n"):
        if found := HEADER.match(block):
            rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in block.splitlines()[2:]]
            yield pytest.param(*found.groups(), rows, id=found[1])


def shown(value):
    """A default as the page writes it: off and on, numbers by value, a list of one as its entry."""
    value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    value = {False: "off", True: "on"}[value] if isinstance(value, bool) else value
    try:
        return float(value)
    except ValueError:
        return value


@pytest.mark.parametrize(("kind", "section", "rows"), [*tables()])
def test_the_defaults_are_true(kind, section, rows):
    theirs, ours = FIXTURE["defaults"].get(kind), getattr(Config(), section)
    checked = set()
    for their_name, their_default, our_name, our_default in rows:
        if theirs and (name := NAME.match(their_name)) and their_default:
            assert shown(their_default) == shown(theirs[name[1]]), name[1]
            checked.add(name[1])
        if (name := NAME.match(our_name)) and hasattr(ours, name[1]):
            assert shown(our_default) == shown(getattr(ours, name[1])), name[1]
    assert theirs is None or checked == theirs.keys()


def test_every_config_of_the_fixture_has_a_table():
    assert {table.values[0] for table in tables()} == {"PPOConfig", *FIXTURE["defaults"]}
