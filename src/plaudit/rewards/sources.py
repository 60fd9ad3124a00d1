"""Where the parts of a reward come from, as `--reward`, a TOML file or a Python program names them."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from plaudit.errors import ConfigError, RewardError
from plaudit.files import sha256
from plaudit.rewards import calling

TextReward = Callable[..., Sequence[float]]  # from prompts and responses to a number for each
AnyReward: TypeAlias = TextReward | str | Sequence[TextReward | str] | Mapping[TextReward | str, float] | None

MODEL = "model"  # the run's reward model
_HOW = "write FILE.py:NAME, a folder or hub id of a classifier (with :LABEL if it has several labels), or model"


@dataclass(frozen=True)
class Source:
    """One part of a reward, which need not be opened yet."""

    text: str  # as it was given, without the weight; the name of a function that was given itself
    weight: float = 1.0
    function: TextReward | None = None  # given itself

    @property
    def is_model(self) -> bool:
        """Whether this is the run's reward model."""
        return self.function is None and self.text == MODEL

    @property
    def file(self) -> Path | None:
        """The file of the function; None for a part of another kind."""
        file, colon, _ = self.text.rpartition(":")
        return Path(file) if self.function is None and colon and file.endswith(".py") else None

    @property
    def classifier(self) -> tuple[str, str]:
        """Folder or hub id of a classifier, and its label or ""."""
        name, _, label = self.text.rpartition(":")
        # A folder may have a colon in its name, as every absolute path of Windows has.
        return (self.text, "") if not name or Path(self.text).is_dir() or len(name) == 1 else (name, label)

    @property
    def title(self) -> str:
        """The part without its folder: by this, settings and weight a reward is known when a run is resumed."""
        if self.function is not None or self.is_model:
            return self.text
        if self.file is not None:
            return f"{self.file.name}:{self.text.rpartition(':')[2]}"
        name, label = self.classifier
        return ":".join(filter(None, [Path(name).resolve().name if Path(name).is_dir() else name, label]))

    def open(self) -> TextReward | None:
        """The function; None for a part of another kind.

        Raises:
            RewardError: its file cannot be imported, or has no such function, or it takes other arguments.
        """
        function = self.function
        if self.file is not None:
            function = load_function(self.file, self.text.rpartition(":")[2])
        if function is not None:
            try:
                inspect.signature(function).bind([], [], **{name: [] for name in ids_asked(function)})
            except TypeError as error:
                must = "must take the prompts and the responses, and if it asks for them prompt_ids and response_ids"
                raise RewardError(f"reward '{self.title}': {must}: {reason(error)}") from None
            except ValueError:  # some functions in C have no signature
                pass
        return function


def parse(text: str) -> Source:
    """A part with its weight, as in `polite.py:score=0.3`; without one the weight is 1.

    Raises:
        ConfigError: it is malformed.
    """
    source, equals, weight = text.rpartition("=")
    if not equals or set("/\\") & set(weight):  # the = belongs to a path
        source, weight = text, "1"
    source = source.strip()
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"reward = {text!r}: the weight {weight!r} is not a number; write {source}=0.3")
    if source.endswith(".py"):
        raise ConfigError(f"reward = {text!r}: name the function in the file: {source}:NAME")
    found = Source(source, number)
    name = found.classifier[0]
    if not (found.is_model or found.file or "/" in name or (name and Path(name).is_dir())):
        raise ConfigError(f"reward = {text!r}: no such file or folder; {_HOW}")
    return found


def sources_of(reward: AnyReward = None, default: tuple[str, ...] = ()) -> tuple[Source, ...]:
    """The parts of a reward, which is a function, a text such as "polite.py:score=0.3", or several of these.

    Args:
        reward: a mapping has the weight of each; None for `default`.
        default: the setting `reward`; () for the run's reward model alone.

    Raises:
        ConfigError: a part is malformed or given twice, or all weights are 0.
    """
    given: Any = (default or (MODEL,)) if reward is None else reward
    if isinstance(given, str) or callable(given):
        given = (given,)
    weights = list(given.values()) if isinstance(given, Mapping) else [None] * len(given)
    found = []
    for each, weight in zip(given, weights, strict=True):
        source = parse(each) if isinstance(each, str) else Source(reward_name(each), 1.0, each)
        found.append(source if weight is None else replace(source, weight=float(weight)))
    twice = [title for title, count in Counter(source.title for source in found).items() if count > 1]
    if twice:
        raise ConfigError(f"reward: '{twice[0]}' is given twice; give it once, with the sum of the weights")
    if not any(source.weight for source in found):
        raise ConfigError("reward: every weight is 0, so there is nothing to train for; give one part another weight")
    return tuple(found)


def uses_model(sources: Sequence[Source]) -> bool:
    """Whether the run's reward model is one of the parts."""
    return any(source.is_model for source in sources)


def described(sources: Sequence[Source]) -> str:
    """The reward in a few words, such as "0.3 polite.py:score + model"; "" for the run's reward model alone."""
    terms = [source.title if source.weight == 1 else f"{source.weight:.12g} {source.title}" for source in sources]
    return "" if terms == [MODEL] else " + ".join(terms)


def short_names(sources: Sequence[Source]) -> list[str]:
    """A name for each part in logs: of a function in a file its name alone, where no other part has it."""
    short = [source.text.rpartition(":")[2] if source.file else source.title for source in sources]
    return [name if short.count(name) == 1 else source.title for name, source in zip(short, sources, strict=True)]


def reward_name(reward: TextReward) -> str:
    """The name of a reward function; of a lambda with its place."""
    name = getattr(reward, "__name__", type(reward).__name__)
    if name == "<lambda>" and isinstance(reward, FunctionType):
        return f"<lambda> in {Path(reward.__code__.co_filename).name}, line {reward.__code__.co_firstlineno}"
    return name


def ids_asked(function: TextReward) -> list[str]:
    """The parameters of a function that get token ids."""
    try:
        return [name for name in ("prompt_ids", "response_ids") if name in inspect.signature(function).parameters]
    except (TypeError, ValueError):  # some functions in C have no signature
        return []


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """The function of this name in a Python file, which runs once in a process while it does not change.

    Raises:
        RewardError: the file is missing or cannot be imported, or has no such function.
    """
    if not path.is_file():
        raise RewardError(f"{path}: no such file; give the path of a Python file, as in {path.name}:{name}")
    module = _module(path.resolve(), sha256(path))
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if isinstance(v, FunctionType) and v.__module__ == module.__name__]
        there = f"; it has: {', '.join(own)}" if own else ""
        raise RewardError(f"{path}: has no function '{name}'{there}")
    return function


@functools.lru_cache(maxsize=16)
def _module(path: Path, content: str) -> ModuleType:
    """The module of a file with this hash, under a name of its own, so that it hides no other module."""
    name = f"plaudit_file_{content[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loader, module = spec.loader, importlib.util.module_from_spec(spec)

    def run() -> None:
        sys.modules[name] = module  # dataclasses look their module up
        sys.path.insert(0, str(path.parent))  # for files beside it
        try:
            loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            raise RewardError(f"{path}{line_of(error, path)}: {reason(error)}") from error
        finally:
            sys.path.remove(str(path.parent))

    calling.in_time(run, None)
    return module


def line_of(error: BaseException, path: str | Path) -> str:
    """ ", line 3" for the last line of a file that an error passed through; "" if it passed through none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def reason(error: BaseException) -> str:
    """An error's class and message in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return ": ".join(filter(None, [type(error).__name__, " ".join(text.split())[:200]]))
