"""The labelling page starts at once: nothing in this room imports torch or what takes long to import."""

import subprocess
import sys
from pathlib import Path

import plaudit

ROOM = Path(plaudit.__file__).parent / "feedback"


def test_importing_the_room_imports_neither_torch_nor_transformers_nor_datasets():
    modules = [f"plaudit.feedback.{path.stem}" for path in sorted(ROOM.glob("*.py")) if path.stem != "__init__"]
    assert len(modules) > 5
    slow = "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    script = f"import sys, {', '.join(modules)}; {slow}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
