"""Numbers from outside: those of JSON, and not what merely converts to one."""

from decimal import Decimal


def refuse_other_than_numbers(value: object) -> object:
    """Return `value`, to be run before it is converted.

    Raises:
        ValueError: it is a text or a truth value, which would convert.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number")  # noqa: TRY004  # Pydantic turns ValueError into a field's problem.
    return value
