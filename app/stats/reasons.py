"""Why a statistic has no value."""

from enum import StrEnum


class NullReason(StrEnum):
    """The code that stands beside every undefined result; the values are part of the public answers."""

    EMPTY_ARM = "empty_arm"  # An arm has no units at all.
    TOO_FEW_UNITS = "too_few_units"  # A sample variance needs at least two units per arm.
    TOO_FEW_ARMS = "too_few_arms"  # Nothing to compare with.
    ZERO_VARIANCE = "zero_variance"  # Every unit of the compared arms has the same value.
    ZERO_BASELINE = "zero_baseline"  # A lift over zero does not exist.
    ZERO_DENOMINATOR = "zero_denominator"  # A ratio metric whose denominator sums to zero.
    NON_POSITIVE_VALUE = "non_positive_value"  # A logarithm needs values above zero.
    ZERO_EXPECTED = "zero_expected"  # Units were seen in an arm that the plan gives no traffic.
    UNBOUNDED = "unbounded"  # The confidence set has no two finite ends.
    NOT_ATTAINABLE = "not_attainable"  # No design or effect in range reaches the asked power.
    OUT_OF_RANGE = "out_of_range"  # The result exists, but not as a finite double.
