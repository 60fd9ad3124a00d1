"""Run the tests against every known fault: `make mutants`.

    python tests/mutants.py            every mutant
    python tests/mutants.py 31 RLOO    the mutants of some faults: numbers, or words of their names

A mutant replaces functions of plaudit, in a process of its own, and runs the tests that must fail. The table names the
test that caught each mutant. The exit status is 1 if a mutant survives, or if a test fails without any mutant.
"""

import argparse
import inspect
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plaudit.errors import PlauditError

ROOT = Path(__file__).parents[1]
PROCESSES = 2
TIMEOUT = 120  # seconds for the tests of one mutant
# A mutant that cannot run at all has not been caught by a test: only these exceptions are a test's judgement.
JUDGEMENTS = (AssertionError, pytest.fail.Exception, PlauditError)


class Mutant(NamedTuple):
    """A fault, and the tests that must catch it.

    Attributes:
        fault: its number in the list of known faults.
        tests: files in tests/, or single tests of them.
        targets: functions to replace, by their names in plaudit: "maths.kl.kl_k1", "models.policy.Policy.forward". A
            function is replaced wherever it has been imported; if the name is that of an import, only there.
        build: makes the replacements from the originals. If it has one parameter, it is called for each target.
    """

    fault: int
    name: str
    tests: tuple[str, ...]
    targets: tuple[str, ...]
    build: Callable[..., Any]

    def replacements(self) -> list[tuple[Any, str, Any, Any]]:
        """(module or class, attribute, original function, replacement) of each target."""
        places = [locate(target) for target in self.targets]
        originals = [_unwrapped(vars(owner)[name]) for owner, name in places]
        single = len(inspect.signature(self.build).parameters) == 1
        found = [self.build(original) for original in originals] if single else self.build(*originals)
        return [(*place, original, new) for place, original, new in zip(places, originals, found, strict=True)]

    def inject(self, assign: Callable[[Any, str, Any], None] = setattr) -> None:
        """Replace the targets in every loaded module of plaudit."""
        for owner, name, original, replacement in self.replacements():
            if inspect.isclass(owner):
                kind = type(vars(owner)[name])
                assign(owner, name, kind(replacement) if kind in (staticmethod, property) else replacement)
                continue
            everywhere = original.__module__ == owner.__name__
            for module in _modules() if everywhere else [owner]:
                for attribute in [key for key, value in vars(module).items() if value is original]:
                    assign(module, attribute, replacement)


def locate(target: str) -> tuple[Any, str]:
    """The module or class that holds a target, and the target's name there.

    Raises:
        AttributeError, ModuleNotFoundError: there is no such function.
    """
    *parts, name = target.split(".")
    owner: Any = import_module("plaudit")
    for part in parts:
        value = vars(owner).get(part)
        owner = value if inspect.isclass(value) else import_module(f"{owner.__name__}.{part}")
    if name not in vars(owner):
        raise AttributeError(f"plaudit.{target} does not exist")
    return owner, name


def _unwrapped(value: Any) -> Any:
    """The function inside a static method or a property."""
    return value.fget if isinstance(value, property) else getattr(value, "__func__", value)


def _modules() -> list[Any]:
    return [module for name, module in sys.modules.items() if name.split(".")[0] == "plaudit"]


class Recorder:
    """A pytest plugin that records the first failure: which test, and whether the test itself judged so."""

    def __init__(self) -> None:
        self.failure: dict[str, Any] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        """Record it."""
        report = yield
        if report.failed and not self.failure:
            judged = call.excinfo is None or isinstance(call.excinfo.value, JUDGEMENTS)
            test = item.nodeid.removeprefix("tests/").partition("[")[0]
            self.failure = {"test": test, "judged": judged and call.when == "call"}
        return report


def work(mutant: Mutant | None, tests: tuple[str, ...], folder: Path) -> None:
    """Run tests in this process, against a mutant if there is one; leaves output and failure.json in `folder`."""
    signal.alarm(0 if mutant is None else TIMEOUT)
    with (folder / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if mutant:
        mutant.inject()
    recorder = Recorder()
    options = ["-x", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--basetemp={folder}/tests"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # this process has imported some plugins already
    status = pytest.main([*options, *(f"{ROOT}/tests/{test}" for test in tests)], plugins=[recorder])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        (folder / "failure.json").write_text(json.dumps(recorder.failure))
    sys.stdout.flush()


def outcome(folder: Path) -> tuple[str, str]:
    """What `work` left: ("passed", ""), ("caught", the test) or ("broken", the end of the output)."""
    path = folder / "failure.json"
    failure = json.loads(path.read_text()) if path.exists() else {"judged": False}
    if not failure:
        return "passed", ""
    return ("caught", failure["test"]) if failure["judged"] else ("broken", (folder / "output").read_text()[-2500:])


def outcomes(jobs: list[tuple[Mutant | None, tuple[str, ...]]]) -> Iterator[tuple[str, str]]:
    """The outcome of each job, in order. Each job runs in a fork of this process, which has imported plaudit."""
    context = multiprocessing.get_context("fork")
    running: dict[int, Any] = {}
    waiting, done, shown = list(range(len(jobs))), set(), 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            while shown < len(jobs):
                while waiting and len(running) < PROCESSES:
                    number = waiting.pop(0)
                    (place := Path(folder, str(number))).mkdir()
                    running[number] = context.Process(target=work, args=(*jobs[number], place))
                    running[number].start()
                wait([process.sentinel for process in running.values()])
                for number in [n for n, process in running.items() if not process.is_alive()]:
                    del running[number]
                    done.add(number)
                while shown in done:
                    yield outcome(Path(folder, str(shown)))
                    shown += 1
        finally:
            for process in running.values():
                process.terminate()
                process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="*", metavar="FAULT", help="number of a fault, or a word of its name")
    wanted = parser.parse_args().wanted
    began = time.perf_counter()
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    import conftest  # noqa: F401  # so that annotations are checked as in the tests, and each fork has its imports
    from faults import MUTANTS

    import plaudit.pipeline  # noqa: F401

    chosen = [m for m in MUTANTS if not wanted or any(w == str(m.fault) or w in m.name.split() for w in wanted)]
    if not chosen:
        parser.error(f"no mutant has the number or the word {' or '.join(wanted)}")
    every_test = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    found = outcomes([(None, every_test), *((mutant, mutant.tests) for mutant in chosen)])
    verdict, output = next(found)
    if verdict != "passed":
        print(f"A test fails without any mutant: {output}")
        return 1
    uncaught = 0
    for mutant, (verdict, detail) in zip(chosen, found, strict=True):
        uncaught += verdict != "caught"
        cell = {"caught": detail, "passed": "SURVIVES", "broken": f"BROKEN\n{detail}"}[verdict]
        print(f"{mutant.fault:2}  {mutant.name:66}  {cell}", flush=True)
    faults = len({mutant.fault for mutant in chosen})
    print(f"{len(chosen)} mutants of {faults} faults, {uncaught} not caught, {time.perf_counter() - began:.0f} s")
    return int(uncaught > 0)


if __name__ == "__main__":
    sys.exit(main())
