"""Why a statistic has no value."""

from enum import StrEnum


class NullReason(StrEnum):
    """The code that stands beside every undefined result; the values are part of the public answers."""

    EMPTY_ARM = "EMPTY_ARM"  # An arm has no units at all.
    TOO_FEW_UNITS = "TOO_FEW_UNITS"  # A sample variance needs at least two units per arm.
    TOO_FEW_ARMS = "TOO_FEW_ARMS"  # Nothing to compare with.
    TOO_FEW_GROUPS = "TOO_FEW_GROUPS"  # Fewer than two groups have an effect with a variance.
    ZERO_VARIANCE = "ZERO_VARIANCE"  # Every unit of the compared arms has the same value.
    ZERO_BASELINE = "ZERO_BASELINE"  # A lift over zero does not exist.
    ZERO_DENOMINATOR = "ZERO_DENOMINATOR"  # A ratio metric whose denominator sums to zero.
    NON_POSITIVE_VALUE = "NON_POSITIVE_VALUE"  # A logarithm needs values above zero.
    ZERO_EXPECTED = "ZERO_EXPECTED"  # Units were seen in an arm that the plan gives no traffic.
    UNBOUNDED = "UNBOUNDED"  # The confidence set has no two finite ends.
    NOT_ATTAINABLE = "NOT_ATTAINABLE"  # No design or effect in range reaches the asked power.
    OUT_OF_RANGE = "OUT_OF_RANGE"  # The result exists, but not as a finite double.
    PRECISION_LOST = "PRECISION_LOST"  # Beside one value that is far too large, all others are lost in rounding.
