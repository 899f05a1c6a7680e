"""Structured logs: one JSON object a line, with the request's id bound to each."""

import logging
import sys
from contextvars import ContextVar

import structlog

# The id of the request that is being answered; part of each of its log events.
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure_logging(level: str, *, readable: bool = False) -> None:
    """Send every event to standard error, as JSON or, for a person at a terminal, as text."""
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if readable else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            _add_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _add_request_id(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    if (request_id := REQUEST_ID.get()) is not None:
        event["request_id"] = request_id
    return event
