"""How the rows of a statement are read, and what stands against it, in words. No I/O."""

from collections.abc import Mapping
from datetime import datetime

from app.measurement.plan import Plan, Shape, compiled
from app.metrics.values import Recipe
from app.results.values import Question

# What clickhouse-client reads of one statement unless it is told otherwise.
_MAX_QUERY_SIZE = 256 * 1024

NO_WATERMARK = (
    "There is no SQL for ClickHouse now: it does not answer, or is not known to be complete up to any moment."
)
_NO_EVENT_TYPES = "`event_type` is of no effect: stored metrics name their own event types."
_ON_HISTORY = (
    "ClickHouse is complete for what was ingested before {watermark}, and its statement looks no further. Where both"
    " stores answer together, PostgreSQL's rows from then on travel with the statement; alone, PostgreSQL's statement"
    " looks at all it has. Rollups, where they are used, change no number."
)
_TOO_LONG = "The statement for ClickHouse has {size:,} bytes; raise `max_query_size` before you paste it."
_ENTRIES_AND_ARMS = (
    "Rows of kind `entry`: `users` are the exposed users of a variant by bucket; their sum is `sample_size`. Rows of"
    " kind `arm`: `users` have at least one counted event (`unique_users`), `events` is `event_count`; users of `arm`"
    " over users of `entry` is `conversion_rate`."
)
_SUMS = (
    "Sums of values are whole multiples of 2 to the power of minus `exponent`: `total` in these units over the exposed"
    " users is `value_per_user`, over `valued` it is `avg_value`."
)
_P95 = "Rows of kind `p95` are the one or two values around the 95th percentile, by `position`."
_OTHERS = "Rows of kind `slot` are the time series, `excluded` who is left out and why."
_STORED = (
    "PostgreSQL: `n1` of kind `entry` are the exposed users of a variant; of kind `day`, `n1` are the users whose"
    " number is not 0, `n2` is the sum and `n3` the sum of squares of users' numbers, `n4` to `n6` of a ratio the"
    " denominator's sum, sum of squares and the sum of products. The value is `n2` over the exposed users, of a"
    " ratio over `n4`. ClickHouse: `entries`, and `m<number>_users`, `_x`, `_xx`, `_y`, `_yy`, `_xy` as arrays."
)
_EXPONENTS = (
    "Sums of values are in units of 2 to the power of minus an exponent, squares in units squared: rows of kind"
    " `exponent` (position 0: numerator, 1: denominator), in ClickHouse `x<number>_exponent`, `y<number>_exponent`."
)
_QUANTILES = (
    "A quantile lies between the rows `neighbour` (ClickHouse: `q<number>_low`, `q<number>_high`). Its interval takes a"
    " second statement, whose ranks follow from this one's counts."
)


def on_history(watermark: datetime, sql: str) -> list[str]:
    """Say how far ClickHouse's statement looks, and whether it is too long to be pasted without more ado."""
    size = len(sql.encode())
    notes = [_ON_HISTORY.format(watermark=watermark.isoformat())]
    return [*notes, _TOO_LONG.format(size=size)] if size > _MAX_QUERY_SIZE else notes


def on_built_in(question: Question) -> list[str]:
    """Say how the rows of a statement for built-in metrics are read."""
    wanted = ((True, _ENTRIES_AND_ARMS), (question.wants_sums, _SUMS), (question.wants_p95, _P95), (True, _OTHERS))
    return [note for is_wanted, note in wanted if is_wanted]


def on_stored(recipes: Mapping[str, Recipe], *, with_event_types: bool) -> list[str]:
    """Say how the rows of a statement for stored metrics are read."""
    plan = compiled(recipes)
    numbers = ", ".join(f"{measure.index} is {measure.key}" for measure in plan.measures)
    notes = [f"Metrics go by number: {numbers}.", _STORED, *_on_units(plan)]
    if any(measure.shape is Shape.VALUES for measure in plan.measures):
        notes.append(_QUANTILES)
    return [*notes, _NO_EVENT_TYPES] if with_event_types else notes


def _on_units(plan: Plan) -> list[str]:
    notes = [_EXPONENTS] if any(measure.scaled for measure in plan.measures) else []
    known = [measure for measure in plan.measures if measure.unit not in {None, 1}]
    return notes + [f"{measure.key} is in units of {measure.unit}." for measure in known]
