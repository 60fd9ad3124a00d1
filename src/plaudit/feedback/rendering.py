"""The templates of the labelling pages."""

from __future__ import annotations

from plaudit.feedback.statistics import Share
from plaudit.web.rendering import Pages, interval


def counts(share: Share) -> str:
    """Numerator, denominator and interval."""
    if not share.of:
        return "no votes yet"
    return f"{share.hits:,.10g} of {share.of:,}; {interval(share.interval)}"


PAGES = Pages("plaudit.feedback", ["page.js"], [counts])
