"""Does every known fault turn a test red? `make mutants` does each one to a copy of the source and runs the tests.

    python tests/mutants.py [numbers of faults]

Prints which test caught each, and exits with 1 if a fault survives, or if a test fails on the unchanged copy.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "plaudit"
TOGETHER = 2
# A mutant that cannot run at all has not been caught by a test's judgement.
ACCIDENTS = ("NameError", "ImportError", "AttributeError", "SyntaxError", "TypeError", "jaxtyping", "beartype")

RUN = """
import importlib.util, sys, pytest
found = importlib.util.find_spec("plaudit").origin
assert found.startswith(sys.argv[1]), f"the tests would import {found}"
sys.exit(pytest.main(sys.argv[2:]))
"""


def copied(folder: Path, mutant: Mutant | None) -> Path:
    """A folder to import plaudit from, with the mutant's edits."""
    model = "movie_gpt2"  # 16 MB that no mutant changes
    shutil.copytree(SOURCE, folder / "plaudit", ignore=shutil.ignore_patterns("__pycache__", model))
    (folder / "plaudit" / "models" / model).symlink_to(SOURCE / "models" / model)
    for file, old, new in mutant.edits if mutant else ():
        path = folder / "plaudit" / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: found {text.count(old)} times: {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def tested(mutant: Mutant | None, tests: tuple[str, ...]) -> tuple[str, str]:
    """(verdict, what to say of it); the verdict is passed, caught or broken."""
    with tempfile.TemporaryDirectory() as folder:
        source = copied(Path(folder).resolve() / "src", mutant)
        environment = os.environ | {
            "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "500",
        }  # fmt: skip
        options = ["-q", "-x", "--tb=line", "-rfE", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
        temporary = f"--basetemp={folder}/tests"
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(source), *options, temporary, *(f"tests/{t}" for t in tests)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode == 0:
        return "passed", ""
    failed = re.search(r"^FAILED tests/(\S+?)(?:\[.*?\])?(?: - (.*))?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or not failed or any(a in (failed[2] or "") for a in ACCIDENTS):
        return "broken", done.stdout[-2000:] + done.stderr[-2000:]
    return "caught", failed[1]


def main(numbers: set[int]) -> int:
    began = time.perf_counter()
    chosen = [m for m in MUTANTS if not numbers or m.fault in numbers]
    verdict, said = tested(None, tuple(dict.fromkeys(t for m in chosen for t in m.tests)))
    if verdict != "passed":
        print(f"the tests fail on the unchanged source:\n{said}")
        return 1
    uncaught = 0
    with ThreadPoolExecutor(TOGETHER) as pool:
        for mutant, (verdict, said) in zip(chosen, pool.map(lambda m: tested(m, m.tests), chosen), strict=True):
            uncaught += verdict != "caught"
            outcome = {"caught": said, "passed": "SURVIVES", "broken": f"BROKEN\n{said}"}[verdict]
            print(f"{mutant.fault:2}  {mutant.name:58}  {outcome}", flush=True)
    faults = len({m.fault for m in chosen})
    print(f"{len(chosen)} mutants of {faults} faults, {uncaught} not caught, {time.perf_counter() - began:.0f} s")
    return int(uncaught > 0)


if __name__ == "__main__":
    sys.exit(main({int(n) for n in sys.argv[1:]}))
