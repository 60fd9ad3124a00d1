"""The table of faults is whole and speaks of the source and the tests as they are; `make mutants` runs it."""

import pytest
from faults import MUTANTS
from mutants import ROOT, SOURCE


def test_every_known_fault_has_a_mutant():
    assert {m.fault for m in MUTANTS} == set(range(1, 19))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault}: {m.name}")
def test_a_mutant_still_fits_the_source_and_names_tests_that_exist(mutant):
    for file, old, new in mutant.edits:
        text = (SOURCE / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, (file, old)
        compile(text.replace(old, new), file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text(encoding="utf-8")
