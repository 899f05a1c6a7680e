"""Numbers as sentences show them."""

from datetime import datetime


def percent(share: float) -> str:
    """Write a fraction as a percentage with three digits."""
    return f"{share * 100:.3g} %"


def count(number: int, noun: str) -> str:
    """Write a number with its noun: `1 user`, `2,000 users`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def p_value(p: float) -> str:
    """Write a p-value as papers do."""
    return "p < 0.000001" if p < 1e-6 else f"p = {p:.2g}"


def moment(at: datetime) -> str:
    """Write a moment in UTC to the minute."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def listed(words: list[str], most: int = 3) -> str:
    """Join words, the first few of them by name."""
    if len(words) <= most:
        return ", ".join(words)
    return f"{', '.join(words[:most])} and {len(words) - most} more"
