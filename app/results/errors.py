"""What can keep results from being computed."""

from app.core.errors import Conflict, NotFound, Unavailable


class NoSourceAvailable(Unavailable):
    """Neither store can answer as asked."""

    slug = "results-unavailable"
    title = "The results cannot be computed now"


class HistoryDropped(Conflict):
    """Events that count are older than the history, which gives them up after a time."""

    slug = "history-dropped"
    title = "The history does not reach back far enough"


class StoreDropped(Conflict):
    """PostgreSQL alone is asked, and has dropped events that count: ClickHouse has them."""

    slug = "events-dropped"
    title = "PostgreSQL does not reach back far enough"


class AnswerNotFound(NotFound):
    """No answer is kept under the id, or no longer."""

    slug = "answer-not-found"
    title = "The answer is not kept"


class StoreIncomplete(Exception):
    """PostgreSQL has dropped events that count for the question."""
