"""The human ratings, for a notebook that also works without them."""

import contextlib
import io

from plaudit.data.human_ratings import human_ratings
from plaudit.errors import DataError
from plaudit.records import RatedText


def ratings_if_available() -> list[RatedText]:
    """The human ratings. Without a network: an empty list, and a printed line that says what is missing and why."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a notebook shows progress on stderr as if it were an error
            return human_ratings()
    except DataError as error:
        print(f"The human ratings are LEFT OUT of this notebook: {error}")
        print(
            "The rest of the notebook works without them. To add them, run this cell again with a network connection."
        )
        return []
