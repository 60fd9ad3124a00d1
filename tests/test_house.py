"""The rules of the house, read from the source: imports go downwards, and some words are kept out."""

import ast
from pathlib import Path

import plaudit

ROOT = Path(plaudit.__file__).parent
FLOORS = [
    {"records", "config", "rng", "errors", "fetching", "__init__"},
    {"maths", "batches"},
    {"training", "data", "models"},
    {"algorithms", "evaluation", "feedback"},
    {"cli", "lesson", "pipeline", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _sources():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree):
    """(module, name) for every import anywhere in the file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


def _room(relative):
    return relative.parts[0].removesuffix(".py")


def _our_imports(tree):
    for module, name in _imports(tree):
        parts = module.split(".")
        if parts[0] == "plaudit":
            yield parts[1] if len(parts) > 1 else (name if name in FLOOR else "__init__")


def test_every_room_has_a_floor():
    assert {_room(path) for path, _ in _sources()} <= set(FLOOR)


def test_imports_go_downwards():
    upward = [
        f"{path}: {room}"
        for path, tree in _sources()
        for room in _our_imports(tree)
        if FLOOR[room] > FLOOR[_room(path)]
    ]
    assert upward == []


def test_maths_sees_tensors_only():
    allowed = {"__future__", "typing", "torch", "numpy", "scipy", "jaxtyping"}
    for path, tree in _sources():
        if _room(path) == "maths":
            modules = {module for module, _ in _imports(tree) if not module.startswith("plaudit.maths")}
            foreign = {module for module in modules if module.partition(".")[0] not in allowed}
            assert not foreign, path


def test_nothing_is_pickled():
    for path, tree in _sources():
        names = {module.split(".")[0] for module, _ in _imports(tree)}
        assert not names & {"pickle", "joblib", "dill", "shelve"}, path
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in ("load", "save")]
        assert not [c for c in calls if isinstance(c.value, ast.Name) and c.value.id == "torch"], path


def test_no_generator_is_hidden():
    """Every draw goes through rng.py: nothing else may use torch's or numpy's global generators."""
    banned = {"manual_seed", "rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "seed", "shuffle"}
    for path, tree in _sources():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("torch", "random")
            ):
                assert node.attr not in banned, f"{path}:{node.lineno}: {node.attr}"


def test_files_are_rooms_not_halls():
    long = {str(p): n for p, _ in _sources() if (n := len((ROOT / p).read_text(encoding="utf-8").splitlines())) > 330}
    assert long == {}


def test_words_that_the_house_does_not_use():
    names = {str(path) for path, _ in _sources()}
    assert not [n for n in names if "utils" in n or "helpers" in n or "trainer" in n]
