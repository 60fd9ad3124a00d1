"""Where the tables of a data set are: a file, a folder, an archive, or a clone of a hub repository."""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from plaudit.data.tables import shown
from plaudit.errors import DataError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".arrow", ".ndjson")
TEXTS = (".txt", "")  # one example a line
OPINIONS = {".pos": "pos", ".neg": "neg"}  # one labelled example a line, as in rt-polarity.pos
PACKED: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
LABEL_FOLDERS = ("pos", "neg", "positive", "negative")  # one example a file, as in aclImdb/train/pos/0_9.txt
_DESCRIPTIONS = re.compile(r"(dataset[_-].*|config.*|state|.*\.schema|package.*|tokenizer.*)\.json")
_PROSE = re.compile(r"(readme|licen[sc]e|requirements|changelog|notice|citation|authors|urls_.*|makefile).*")

Open = Callable[[], Any]  # a context that gives a binary file


@dataclass(frozen=True)
class Source:
    """A file that holds a table, or several that hold one text each."""

    name: str  # for messages
    title: str  # decides whether the table is held out: the path without its suffix, or the split
    suffix: str
    open: Open
    packed: str = ""  # how it is packed: "gzip", "zip"
    label: str = ""  # of all its lines, from its name
    texts: tuple[tuple[str, Open], ...] = ()  # with labels: the files of a folder of texts
    names: dict[str, list[str]] = field(default_factory=dict)  # of the labels 0, 1, ..., by column


Tree = dict[str, Open]  # files by their path below the folder or inside the archive


def files_below(path: Path) -> list[Path]:
    """`path` itself, or every file below a folder except hidden ones, sorted."""
    if not path.is_dir():
        return [path]
    found = []
    for folder, inner, names in os.walk(path, followlinks=False, onerror=_unreadable):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}")


def sources(path: Path, config: str = "") -> list[Source]:
    """The tables in a file, a folder with its sub-folders, or an archive.

    Args:
        path: where they are.
        config: one of several configurations, as a clone of a hub repository has them.

    Raises:
        DataError: there is none, or it is not clear which configuration is meant.
    """
    if path.is_dir():
        tree = {file.relative_to(path).as_posix(): _plain(file) for file in files_below(path)}
        return in_tree(str(path), tree, config)
    if path.suffix.lower() == ".zip" or _magic(path) == b"PK\x03\x04":
        return in_tree(str(path), _members(path), config, packed="zip")
    if path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2")):
        raise DataError(f"{path}: a tar archive; unpack it with tar xf, and give the folder")
    return [_source(str(path), path.name, _plain(path))]


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _plain(path: Path) -> Open:
    return lambda: path.open("rb")


def _members(path: Path) -> Tree:
    """The files in a zip archive."""

    def opener(name: str) -> Open:
        @contextmanager
        def opened() -> Iterator[BinaryIO]:
            with zipfile.ZipFile(path) as archive, archive.open(name) as member:
                yield member  # type: ignore[misc]

        return opened

    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as a zip archive: {error}") from None
    hidden = re.compile(r"(^|/)(\.|__MACOSX)")
    names = [name for name in names if not hidden.search(name)]
    top = os.path.commonpath(names) if len(names) > 1 else ""  # archives often hold one folder
    return {(os.path.relpath(name, top) if top else name).replace(os.sep, "/"): opener(name) for name in names}


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the errors of damaged files and archives into one line."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name}: cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None


def _source(name: str, inside: str, opened: Open, packed: str = "") -> Source:
    """The source of a file, unpacked as its name says."""
    path = PurePosixPath(inside)
    unpack = PACKED.get(path.suffix.lower())
    if unpack:
        inner, packed = opened, "gzip" if unpack is gzip.open else path.suffix[1:].lower()

        @contextmanager
        def opened() -> Iterator[Any]:
            with inner() as file, unpack(file) as content:
                yield content

        path = path.with_suffix("")
    suffix = path.suffix.lower()
    return Source(name, str(path.with_suffix("")), suffix, opened, packed, OPINIONS.get(suffix, ""))


def in_tree(where: str, tree: Tree, config: str = "", packed: str = "") -> list[Source]:
    """The tables among the files of a folder, an archive or a hub repository; errors as in `sources`."""
    listed, names = _configured(where, tree, config)
    if listed is None and config:
        inner = {path: opened for path, opened in tree.items() if path.startswith(f"{config}/")}
        if not inner:
            folders = sorted({path.partition("/")[0] for path in tree if "/" in path})
            raise DataError(f"{where}: no configuration '{config}'; found {shown(folders)}")
        tree = inner
    if listed is None:
        listed = [("", path) for path in _data_files(tree)]
    each = [(split, _source(f"{where}/{path}", path, tree[path], packed)) for split, path in listed]
    found = [replace(one, names=names, title=split or one.title) for split, one in each]
    found = _folders_of_texts(where, tree, packed) or found
    if not found:
        there = sorted({path.partition("/")[0] for path in tree})
        raise DataError(f"{where}: no data files here, whose names end in {', '.join(SUFFIXES)}; found {shown(there)}")
    return found


def _data_files(tree: Tree) -> list[str]:
    """Tables if there are any, otherwise files with labels in their names, otherwise files of lines."""
    suffixes = {path: PurePosixPath(_unpacked(path)).suffix.lower() for path in tree}
    for kinds in (SUFFIXES, tuple(OPINIONS), TEXTS):
        found = [p for p, suffix in suffixes.items() if suffix in kinds and not _describes(p, kinds)]
        if found:
            return found
    return []


def _unpacked(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in PACKED else path


def _describes(path: str, kinds: tuple[str, ...]) -> bool:
    """Whether this is a description of the data set, such as dataset_info.json or README.txt."""
    name = PurePosixPath(path).name.lower()
    return bool(_DESCRIPTIONS.fullmatch(name) or (kinds is TEXTS and _PROSE.fullmatch(name)))


def _folders_of_texts(where: str, tree: Tree, packed: str) -> list[Source]:
    """Folders that are named by a label and hold one text a file; a folder beside them, such as unsup, has no label."""
    groups: dict[str, list[tuple[str, Open]]] = {}
    for path, opened in tree.items():
        folder, _, name = path.rpartition("/")
        parent, _, label = folder.rpartition("/")
        if label.lower() in LABEL_FOLDERS and name.lower().endswith(".txt"):
            groups.setdefault(parent, []).append((label.lower(), opened))
    if any(len({label for label, _ in texts}) < 2 for texts in groups.values()):
        return []
    return [
        Source(os.path.join(where, parent), parent or "texts", "/", texts[0][1], packed, texts=tuple(texts))
        for parent, texts in groups.items()
    ]


def _configured(where: str, tree: Tree, config: str) -> tuple[list[tuple[str, str]] | None, dict[str, list[str]]]:
    """(split, path) of the files that README.md lists, as in repositories of the hub, and the names of labels."""
    card = _card(tree)
    configs = card.get("configs")
    configs = [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
    by_name = {str(one.get("config_name", "default")): one.get("data_files") for one in configs}
    chosen = config or next((str(o.get("config_name")) for o in configs if o.get("default")), "")
    chosen = chosen or ("default" if "default" in by_name else "")
    if len(by_name) == 1 and not chosen:
        chosen = next(iter(by_name))
    if by_name and not chosen:
        raise DataError(f"{where}: several configurations: {', '.join(by_name)}; choose one with --data.config")
    if by_name and chosen not in by_name:
        raise DataError(f"{where}: no configuration '{chosen}'; choose one of: {', '.join(by_name)}")
    names = _label_names(card.get("dataset_info"), chosen)
    files = by_name.get(chosen)
    if not files:
        return None, names
    listed = [(split, path) for split, pattern in _patterns(files) for path in _matching(tree, pattern)]
    if not listed:
        raise DataError(
            f"{where}: README.md lists data files ({shown(p for _, p in _patterns(files))}) that are not here"
        )
    return list(dict.fromkeys(listed)), names


def _card(tree: Tree) -> dict[str, Any]:
    """The description at the head of README.md."""
    if "README.md" not in tree:
        return {}
    import yaml  # type: ignore[import-untyped]

    with reading("README.md"), tree["README.md"]() as file:
        text = file.read().decode("utf-8", "replace").replace("\r\n", "\n")
    head = re.match(r"\s*---\n(.*?)\n---", text, re.DOTALL)
    try:
        card = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def _patterns(files: Any) -> list[tuple[str, str]]:
    """(split, pattern) of data_files, which is a path, a list, an object by split, or a list of objects."""
    if isinstance(files, str):
        return [("train", files)]
    if isinstance(files, dict) and "split" not in files:
        return [(str(split), str(path)) for split, paths in files.items() for path in _list(paths)]
    found = []
    for one in _list(files):
        if isinstance(one, dict):
            found += [(str(one.get("split", "train")), str(path)) for path in _list(one.get("path"))]
        else:
            found.append(("train", str(one)))
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matching(tree: Tree, pattern: str) -> list[str]:
    pattern = pattern.removeprefix("./").replace("**/", "*")
    return [path for path in tree if fnmatch.fnmatchcase(path, pattern)]


def _label_names(info: Any, config: str) -> dict[str, list[str]]:
    """The names of classes by column, from dataset_info in README.md."""
    found: dict[str, list[str]] = {}
    for one in _list(info):
        if not isinstance(one, dict) or (config and one.get("config_name", config) != config):
            continue
        for feature in _list(one.get("features")):
            dtype = feature.get("dtype") if isinstance(feature, dict) else None
            names = dtype.get("class_label", {}).get("names") if isinstance(dtype, dict) else None
            if isinstance(names, dict):
                names = [names[key] for key in sorted(names, key=int)]
            if isinstance(names, list):
                found[str(feature.get("name")).strip().lower()] = [str(name) for name in names]
    return found
