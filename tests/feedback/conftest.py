"""Projects that are closed after each test."""

import pytest


@pytest.fixture
def opened(tmp_path):
    """A function that calls another one, which makes a store in a new folder, and closes the store in the end."""
    stores = []

    def make(function, *arguments, folder="project", **more):
        stores.append(function(tmp_path / folder, *arguments, **more))
        return stores[-1]

    yield make
    for store in stores:
        store.close()
