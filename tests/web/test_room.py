"""The rooms of the pages start at once: nothing in them imports torch or what takes long to import."""

import subprocess
import sys
from pathlib import Path

import pytest

import plaudit

ROOT = Path(plaudit.__file__).parent


@pytest.mark.parametrize("room", ["web", "monitor", "chat"])
def test_importing_the_room_imports_neither_torch_nor_transformers_nor_datasets(room):
    modules = [f"plaudit.{room}.{path.stem}" for path in sorted((ROOT / room).glob("*.py")) if path.stem != "__init__"]
    assert len(modules) >= 3
    heavy = ("torch", "transformers", "datasets", "scipy")
    slow = f"print([name for name in {heavy} if name in sys.modules])"
    script = f"import sys, {', '.join(modules)}; {slow}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
