"""Public data in a folder beside the repository, ../shared/data, which is too large for it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


def needs_shared(*names: str) -> pytest.MarkDecorator:
    """Skips a test where one of these files or folders of the shared data is missing, and says which."""
    missing = [name for name in names if not (SHARED / name).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(f'../shared/data/{n}' for n in missing)}")
