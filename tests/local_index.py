"""A folder that replaces the package index: pip runs as usual, without a network."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from plaudit.fetching import Package


def publish(package: Package, files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Write a release with `files` into `folder` and make pip look only there; `package` with the release's hash."""
    project, version = package.project, package.version
    if package.file.endswith(".whl"):
        info = f"{project.replace('-', '_')}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        needed = {f"{info}/METADATA": metadata, f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n"}
    else:
        setup = f"from setuptools import setup\nsetup(name={project!r}, version={version!r})\n"
        needed = {f"{project}-{version}/setup.py": setup}
    with zipfile.ZipFile(folder / package.file, "w") as archive:
        for name, content in (needed | files).items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return dataclasses.replace(package, sha256=hashlib.sha256((folder / package.file).read_bytes()).hexdigest())
