"""How the report writes numbers, moments and p-values. Plain functions, no I/O."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
# Between a number and its unit no line breaks.
_SPACE = "\N{NO-BREAK SPACE}"
_SMALLEST_P = 0.0001
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONGEST_UNIT = 12  # In a picture.
# Numbers of other sizes are written with a power of ten.
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-4, 1e12


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric's numbers are written: shares as percent, others with their unit."""

    is_share: bool = False
    unit: str | None = None

    @property
    def factor(self) -> float:
        """Return by what numbers are multiplied before they are written."""
        return 100.0 if self.is_share else 1.0

    def for_pictures(self) -> "Measure":
        """Return the same with a unit that has room in a picture; the tables name the whole of it."""
        if self.unit is None or len(self.unit) <= _LONGEST_UNIT:
            return self
        return replace(self, unit=self.unit[: _LONGEST_UNIT - 1] + "\N{HORIZONTAL ELLIPSIS}")

    def value(self, value: float | None) -> str:
        if value is None:
            return NOTHING
        return f"{plain(value * self.factor)}{self._suffix('%')}"

    def difference(self, value: float | None) -> str:
        """Write a difference with its sign; of shares in percentage points."""
        if value is None:
            return NOTHING
        return f"{signed(value * self.factor)}{self._suffix('pp')}"

    def values(self, lower: float | None, upper: float | None) -> str:
        if lower is None and upper is None:
            return NOTHING
        return f"{_end(lower, self.factor, plain)} to {_end(upper, self.factor, plain)}{self._suffix('%')}"

    def differences(self, lower: float | None, upper: float | None) -> str:
        if lower is None and upper is None:
            return NOTHING
        return f"{_end(lower, self.factor, signed)} to {_end(upper, self.factor, signed)}{self._suffix('pp')}"

    def axis(self, what: str) -> str:
        """Name an axis of differences."""
        if self.is_share:
            return f"{what}, percentage points"
        return what if self.unit is None else f"{what}, {self.unit}"

    def _suffix(self, of_shares: str) -> str:
        unit = of_shares if self.is_share else self.unit
        return "" if unit is None else f"{_SPACE}{unit}"


def plain(value: float) -> str:
    """Write a number with four significant digits, or all of a whole number's."""
    if value == 0:
        return "0"
    size = abs(value)
    if not _SMALLEST_PLAIN <= size < _LARGEST_PLAIN:
        return f"{value:.3e}".replace("-", _MINUS)
    if float(value).is_integer():
        return f"{value:,.0f}".replace("-", _MINUS)
    decimals = max(0, 3 - math.floor(math.log10(size)))
    written = f"{value:,.{decimals}f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written).replace("-", _MINUS)


def signed(value: float) -> str:
    return f"+{plain(value)}" if value > 0 else plain(value)


def percent(fraction: float | None) -> str:
    """Write a fraction as a signed percentage: 0.12 is +12 %."""
    return NOTHING if fraction is None else f"{signed(100 * fraction)}{_SPACE}%"


def percents(lower: float | None, upper: float | None) -> str:
    if lower is None and upper is None:
        return NOTHING
    return f"{_end(lower, 100, signed)} to {_end(upper, 100, signed)}{_SPACE}%"


def short_percents(lift: float, lower: float | None, upper: float | None) -> str:
    """Write a lift with its interval in as few characters as tell it; the tables say it with more digits."""
    written = f"{_short(100 * lift)} %"
    if lower is None and upper is None:
        return written
    return f"{written} ({_end(lower, 100, _short)} to {_end(upper, 100, _short)})"


def _short(value: float) -> str:
    size = abs(value)
    if size >= 10_000:
        return f"{value:+.0e}".replace("-", _MINUS)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:+,.{decimals}f}".replace("-", _MINUS)


def chance(probability: float | None) -> str:
    """Write a probability as a percentage that is never quite 0 or 100."""
    if probability is None:
        return NOTHING
    if probability < _SMALLEST_P:
        return f"<{_SPACE}0.01{_SPACE}%"
    if probability > 1 - _SMALLEST_P:
        return f">{_SPACE}99.99{_SPACE}%"
    return f"{100 * probability:.4g}{_SPACE}%"


def p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    # Without spaces that a line could break at.
    return f"<{_SPACE}{_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.4f}"


def p_in_words(value: float | None) -> str:
    written = p_value(value)
    return f"p {written}" if written.startswith("<") else f"p = {written}"


def moment(value: datetime | None) -> str:
    """Write a moment in UTC, to the second."""
    return NOTHING if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def day(value: datetime) -> str:
    """Write a day as short as an axis needs it."""
    return f"{value.day} {_MONTHS[value.month - 1]}"


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round numbers between the ends, at most so many and at least two where the ends differ."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, most - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(magnitude * unit for unit in (1, 2, 5, 10, 20) if magnitude * unit >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)] or [low, high]


def tick_labels(values: Sequence[float], *, sign: bool = False) -> list[str]:
    """Write the ticks of an axis with as many decimals as their distance needs."""
    step = min((abs(b - a) for a, b in pairwise(values)), default=abs(values[0]) if values else 0)
    if step and not 1e-6 <= step < 1e9:
        return [f"{value:.1e}".replace("-", _MINUS) for value in values]
    decimals = 0 if step == 0 else max(0, -math.floor(math.log10(step) + 1e-9))
    return [_tick(value, decimals, sign=sign) for value in values]


def _tick(value: float, decimals: int, *, sign: bool) -> str:
    # A tick beside zero is zero.
    written = f"{round(value, decimals) + 0.0:,.{decimals}f}"
    if float(written.replace(",", "")) == 0:
        return "0"
    return (f"+{written}" if sign and value > 0 else written).replace("-", _MINUS)


def _end(value: float | None, factor: float, write: Callable[[float], str]) -> str:
    return "no limit" if value is None else write(value * factor)
