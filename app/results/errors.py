"""What can keep results from being computed."""

from app.core.errors import Unavailable


class NoSourceAvailable(Unavailable):
    """Neither store can answer as asked."""

    slug = "results-unavailable"
    title = "The results cannot be computed now"


class TailTooLarge(Exception):
    """More rows wait on their way to ClickHouse than one query may carry."""
