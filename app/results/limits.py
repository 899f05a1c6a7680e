"""How much may be asked of results at once, in whichever way a question comes in. Plain values, no I/O."""

MOST_METRICS = 50
MOST_EVENT_TYPES = 50
MOST_CONTEXT_FILTERS = 10
LONGEST_CONTEXT_NAME = 100
LONGEST_CONTEXT_VALUE = 256
# Quantiles at levels closer to 0 or 100 % than this have no digits left.
LEAST_CONFIDENCE_LEVEL, MOST_CONFIDENCE_LEVEL = 1e-6, 100 - 1e-9
# A longer series is no chart any more, and its answer would be megabytes.
MOST_SERIES_ENTRIES = 20_000
# Each comparison of each part of the users costs a millisecond, and some kilobytes of the answer.
MOST_PART_COMPARISONS = 6_000
# What stores give at most: enough to tell a series that is too long from one that is not.
MOST_SLOTS = MOST_SERIES_ENTRIES + 1
