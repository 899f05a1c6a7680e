"""How the rows of a statement are read, and what stands against it, in words. No I/O."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from app.explain.values import Statement
from app.measurement.plan import Plan, Shape, compiled
from app.measurement.values import Days
from app.metrics.builtin import BUILT_IN_KEYS
from app.metrics.values import Recipe
from app.results.observed import MISSING, PLACES, REST
from app.results.values import Question

# What clickhouse-client reads of one query unless it is told otherwise.
_MAX_QUERY_SIZE = 256 * 1024

NO_CLICKHOUSE = "There is no SQL for ClickHouse now: it does not answer."
NO_WATERMARK = "There is no SQL for ClickHouse now: it is not known to be complete up to any moment."
REFUSED = (
    "There is no SQL for ClickHouse now: it refused a query on which that SQL depends. This is a fault of the service,"
    " whose log says more."
)
NO_POSTGRES = "There is no SQL for PostgreSQL now: it does not answer."
DROPPED = "There is no SQL for {store}: it has given up events that count."
WITHOUT_COVARIATES = (
    "{store} has given up events from before the exposures, so that its SQL has no covariates; an answer that it gives"
    " alone has none either."
)
_NO_EVENT_TYPES = "`event_type` is of no effect on {keys}: stored metrics name their own event types."
_ON_HISTORY = (
    "ClickHouse is complete for what was ingested before {watermark}, and its queries look no further. Where both"
    " stores answer together, PostgreSQL's rows from then on travel with the query; alone, PostgreSQL's queries"
    " look at all it has. Rollups, where they are used, change no number."
)
_TOO_LONG = "A query for ClickHouse has {size:,} bytes; raise `max_query_size` before you paste it."
_ENTRIES_AND_ARMS = (
    "`observed`: rows of kind `entry`: `users` are the exposed users of a variant by bucket, whose sum is"
    " `sample_size`; `planned` of them came by assignment and count in the sample ratio. Rows of kind `arm`: `users`"
    " have at least one counted event (`unique_users`), `events` is `event_count`, `late` came late; users of `arm`"
    " over users of `entry` is `conversion_rate`."
)
_SUMS = (
    "Sums of values are whole multiples of 2 to the power of minus `exponent`: `total` in these units over the exposed"
    " users is `value_per_user`, over `valued` it is `avg_value`. The unit suits the largest value of all arms. Where"
    " it is too large for the values of one of them, an answer has both metrics measured like stored ones, in finer"
    " units; explain it with `effect_over_time`, and you see these queries."
)
_P95 = "Rows of kind `p95` are the one or two values around the 95th percentile, by `position`."
_OTHERS = (
    "Rows of kind `slot` are the time series, `excluded` who is left out and why, `assigned` who would count if the"
    " assignment exposed."
)
_MEASURED = (
    "`measured`, in PostgreSQL: `n1` of kind `entry` are the exposed users of a variant; of kind `day`, `n1` are the"
    " users whose number is not 0, `n2` is the sum and `n3` the sum of squares of users' numbers, `n4` to `n6` of a"
    " ratio the denominator's sum, sum of squares and the sum of products; `n1` of kind `events` are counted events."
    " The value is `n2` over the exposed users, of a ratio over `n4`. ClickHouse: `entries`, and `m<number>_users`,"
    " `_x`, `_xx`, `_y`, `_yy`, `_xy` as arrays, `m<number>_events`."
)
_COVARIATES = (
    "For CUPED, `n1` and `n2` of kind `covariate` are the sum and the sum of squares of users' numbers from before the"
    " exposure, on the day of the exposure, and `n7` of kind `day` is the sum of their products with the number after"
    " it (ClickHouse: `m<number>_z`, `_zz`, `_xz`)."
)
_STEPS = "Of a funnel, `n1` of kind `step` are the users who got to a step (ClickHouse: `m<number>_reached`)."
_EXPONENTS = (
    "Sums of values are in units of 2 to the power of minus an exponent, squares in units squared: rows of kind"
    " `exponent` (position 0: numerator, 1: denominator, 2: covariate), in ClickHouse `x<number>_exponent`,"
    " `y<number>_exponent`, `z<number>_exponent`."
)
_REPEATED = (
    "One value is so far beyond others that these are lost in rounding beside it. So these metrics are measured again,"
    " by queries of their own, in finer units or with some variants alone: {keys}. Where two queries have the same"
    " metric and `variant_id`, the later one counts. Where even that is too coarse, an answer has null, with"
    " PRECISION_LOST, in place of what these rows say."
)
_QUANTILES = (
    "A quantile lies between the rows `neighbour` (ClickHouse: `q<number>_low`, `q<number>_high`); rows `clusters` say"
    " how the values lie by user (ClickHouse: `q<number>_users` and on), from which the ranks of its bounds follow."
)
_BOUNDS = (
    "`bounds`: the ends of quantiles' intervals at {level:g} % (ClickHouse: `q<number>_lower`, `q<number>_upper`). Its"
    " ranks are those of a moment ago; rank 1 stands for both the first value and an end beyond the values."
)
_DAYS = (
    "Position 0 of `day`, `covariate` and `entry`, in ClickHouse the first place of an array, is {first} in {store},"
    " with all before it; there are {number} days. A day's row says what the day added: sums up to it are the series,"
    " sums over all days the value."
)
DUPLICATES = (
    "`duplicates`: `dropped` is `duplicates_dropped`, which is null where it `lacks` the counts of a part of that time;"
    " ClickHouse has none."
)
_CELLS = (
    f"By segment, `variant_id` is a cell: {PLACES} times the variant's id plus the place of the value. Rows of kind"
    f" `segment` name the value (`label`) of each place (`variant_id`); place {MISSING} are users without a value,"
    f" {REST} those of all other values. Segments as strata (`poststratified`) and whether they differ (`homogeneity`)"
    " need no more than these sums."
)
_COHORT_CELLS = (
    f"By segment, `variant_id` is a cell: {PLACES} times the variant's id plus the place of the cohort. Rows of kind"
    " `cohort` say where the cohort of each place (`variant_id`) begins: `bucket_us`, in microseconds since 1970; place"
    f" {REST} are users of all days before these. Cohorts as strata (`poststratified`) and whether they differ"
    " (`homogeneity`) need no more than these sums."
)


def on_history(watermark: datetime, statement: Statement) -> list[str]:
    """Say how far ClickHouse's queries look, and whether one is too long to be pasted without more ado."""
    size = max(len(query.sql.encode()) for query in statement.queries)
    notes = [_ON_HISTORY.format(watermark=watermark.isoformat())]
    return [*notes, _TOO_LONG.format(size=size)] if size > _MAX_QUERY_SIZE else notes


def on_observed(question: Question) -> list[str]:
    """Say how the rows of what is observed are read."""
    wanted = ((True, _ENTRIES_AND_ARMS), (question.wants_sums, _SUMS), (question.wants_p95, _P95), (True, _OTHERS))
    return [note for is_wanted, note in wanted if is_wanted]


def on_measured(recipes: Mapping[str, Recipe], names: Sequence[str], *, with_event_types: bool) -> list[str]:
    """Say how the rows of what is measured are read.

    names: of all metrics of the question.
    """
    plan = compiled(recipes)
    numbers = ", ".join(f"{measure.index} is {measure.key}" for measure in plan.measures)
    wanted = (
        (True, _MEASURED),
        (any(measure.covariate is not None for measure in plan.measures), _COVARIATES),
        (any(measure.shape is Shape.CHAIN for measure in plan.measures), _STEPS),
        (any(measure.shape is Shape.VALUES for measure in plan.measures), _QUANTILES),
    )
    stored = [key for key in names if key in recipes and key not in BUILT_IN_KEYS]
    return [
        f"Metrics go by number: {numbers}.",
        *(note for is_wanted, note in wanted if is_wanted),
        *_on_units(plan),
        *([_NO_EVENT_TYPES.format(keys=", ".join(stored))] if with_event_types and stored else []),
    ]


def on_cells(question: Question) -> str:
    """Say how the rows about parts of the users are read."""
    return _CELLS if question.cohorts is None else _COHORT_CELLS


def on_days(days: Mapping[str, Days | None]) -> list[str]:
    """Say which days a series has, by the store's name."""
    return [
        _DAYS.format(first=found.first.isoformat(), number=found.number, store=store)
        for store, found in days.items()
        if found is not None
    ]


def on_repeated(recipes: Mapping[str, Recipe], indexes: Collection[int]) -> list[str]:
    """Say which metrics are measured again.

    indexes: of these in the plan; none: there is nothing to say.
    """
    keys = [measure.key for measure in compiled(recipes).measures if measure.index in indexes]
    return [_REPEATED.format(keys=", ".join(keys))] if keys else []


def on_bounds(confidence_level: float) -> str:
    """Say what the bounds of quantiles are."""
    return _BOUNDS.format(level=confidence_level)


def _on_units(plan: Plan) -> list[str]:
    notes = [_EXPONENTS] if any(measure.scaled for measure in plan.measures) else []
    known = [measure for measure in plan.measures if measure.unit not in {None, 1}]
    return notes + [f"{measure.key} is in units of {measure.unit}." for measure in known]
