"""Codes in words, for those who read an answer. Plain values, no I/O."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

# Counts depend on the allocation, and percentiles without a standard error have no test.
NO_TEST = "NO_TEST"
# No event carries a value, so there is no percentile of them.
NO_VALUES = "NO_VALUES"
# Totals, and percentiles without a standard error, have no interval.
NO_INTERVAL = "NO_INTERVAL"
# The metric has no number from before the exposure.
NO_COVARIATE = "NO_COVARIATE"
# The compared variant is at 0 with every user, so its lift of -1 has no spread.
NO_SPREAD_AROUND_ZERO = "NO_SPREAD_AROUND_ZERO"
# The lift has an interval at this look, but none yet that holds at every look.
ALWAYS_VALID_UNBOUNDED = "ALWAYS_VALID_UNBOUNDED"
# Nothing is missing, but a lift reads the other way round.
NEGATIVE_BASELINE = "NEGATIVE_BASELINE"
# The metric was not measured day by day.
NO_DAILY_DATA = "NO_DAILY_DATA"
# Users from before `start_date` count on the first day, and its own are not told from them.
BEFORE_START_DATE = "BEFORE_START_DATE"

_SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        NO_TEST: "Nothing is tested: the metric is a total that grows with the variant, or a percentile without a"
        " standard error.",
        NO_VALUES: "No counted event of a variant carries a value.",
        NO_INTERVAL: "The metric has no interval.",
        NO_COVARIATE: "The metric has no number from before the exposure to adjust by.",
        NO_SPREAD_AROUND_ZERO: "Every user of the compared variant is at 0, so that the lift has no interval. The"
        " test of the difference stands.",
        ALWAYS_VALID_UNBOUNDED: "The control's value is not yet far enough from 0 for a lift that holds at every look:"
        " its always-valid interval has no two finite ends. The one of the difference stands.",
        NEGATIVE_BASELINE: "The control's value is below 0, so that a lift above 0 is a change further below it: read"
        " the difference.",
        "EMPTY_ARM": "A variant has no exposed user yet.",
        "TOO_FEW_UNITS": "Too few users: a variance needs two in each variant at least, and a quantile's interval needs"
        " enough with values on both sides of it.",
        "TOO_FEW_GROUPS": "Nothing to compare: fewer than two parts have `min_sample` users of both variants, and a"
        " variance. Take larger parts, such as weeks, or a smaller `min_sample`.",
        "ZERO_VARIANCE": "Within the compared variants all users have the same value (of a quantile: its interval has"
        " no length), so there is no variance to test with.",
        "ZERO_BASELINE": "The control's value is 0, and a lift over 0 does not exist; read the difference.",
        "ZERO_DENOMINATOR": "The metric's denominator sums to 0 in a variant.",
        "NON_POSITIVE_VALUE": "The control's value is not above 0, so that a share of it, such as a margin, means"
        " nothing.",
        "UNBOUNDED": "The control's value is not itself clearly away from 0, so that the lift could be anything: its"
        " interval has no two finite ends. The test of the difference stands.",
        "OUT_OF_RANGE": "The number exists, but is too large to be written.",
        "PRECISION_LOST": "One value is so far beyond all others that these are lost in rounding beside it: leave it"
        " out by a filter, or ask for a time without it.",
    }
)


def sentences(codes: Iterable[str | None]) -> tuple[str, ...]:
    """Return a sentence for each of the codes, once."""
    known = dict.fromkeys(code for code in codes if code is not None)
    return tuple(_SENTENCES[code] for code in known if code in _SENTENCES)
