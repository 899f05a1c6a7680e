"""The question in a query string."""

import re
from typing import Annotated

from fastapi import Query, Request
from pydantic import AfterValidator, BeforeValidator, StringConstraints, WithJsonSchema

from app.core.errors import Invalid
from app.core.moments import Moment
from app.core.names import Key
from app.core.text import refuse_control_characters
from app.metrics.recipe_schemas import EventType
from app.metrics.schemas import MAX_COVARIATE_DAYS
from app.results.limits import (
    LEAST_CONFIDENCE_LEVEL,
    LONGEST_CONTEXT_NAME,
    LONGEST_CONTEXT_VALUE,
    MOST_CONFIDENCE_LEVEL,
    MOST_CONTEXT_FILTERS,
    MOST_EVENT_TYPES,
    MOST_METRICS,
)
from app.results.reading import Pair, Reading
from app.results.values import CohortWidth, ContextFilter, Granularity, Question, SourceChoice

CONTEXT_PREFIX = "context."

_MOST_MIN_SAMPLE = 10**12

_MOST_PAIRS = 20
_PAIR = r"^[a-z][a-z0-9_-]{0,63}:[a-z][a-z0-9_-]{0,63}$"
# Below this a Beta prior puts weight on rates that no double tells from 0 or 1; the other bounds are far from any use.
_SMALLEST_PRIOR, _LARGEST_PRIOR = 0.05, 1e9
_SMALLEST_STD, _LARGEST_LIFT = 1e-9, 1e6
_MOST_PLANNED = 10**12

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# A plus sign that was not escaped in a URL arrives as a space; no other reading of it makes sense.
_LOST_PLUS = re.compile(r" (\d{2}:?\d{2})$")


def _as_timestamp(value: object) -> object:
    """Write a date out as its midnight in UTC."""
    if not isinstance(value, str):
        return value
    return f"{value}T00:00:00Z" if _DATE.fullmatch(value) else _LOST_PLUS.sub(r"+\1", value)


# A date alone is no format of its own in JSON Schema's `date-time`.
DateOrMoment = Annotated[
    Moment, BeforeValidator(_as_timestamp), WithJsonSchema({"type": "string", "examples": ["2026-01-31"]})
]


AttributeName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_CONTEXT_NAME),
    AfterValidator(refuse_control_characters),
]


def question_of(
    request: Request,
    *,
    event_type: Annotated[
        list[EventType],
        Query(
            default_factory=list,
            max_length=MOST_EVENT_TYPES,
            description="Repeatable: their union. Left out: all event types together.",
        ),
    ],
    start_date: Annotated[
        DateOrMoment | None, Query(description="Events from here on: a timestamp with an offset, or a date.")
    ] = None,
    end_date: Annotated[DateOrMoment | None, Query(description="Events and exposures before this.")] = None,
    granularity: Annotated[Granularity, Query(description="`realtime` is minutes.")] = Granularity.DAY,
    metrics: Annotated[
        list[Key],
        Query(
            default_factory=list,
            max_length=MOST_METRICS,
            description="Repeatable: built-in metrics, keys of stored ones, or `attached` for all of the experiment."
            " The first one decides on the winner. Left out: those of the experiment's plan, if it has one, then"
            " conversion_rate and unique_users.",
        ),
    ],
    include_ci: Annotated[bool, Query(description="Whether to give intervals.")] = True,
    confidence_level: Annotated[
        float,
        Query(ge=LEAST_CONFIDENCE_LEVEL, le=MOST_CONFIDENCE_LEVEL, description="Percent, between 0 and 100."),
    ] = 95.0,
    min_sample: Annotated[
        int, Query(ge=0, le=_MOST_MIN_SAMPLE, description="Variants with fewer exposed users are marked.")
    ] = 100,
    include_overrides: Annotated[bool, Query(description="Whether users with an override count.")] = False,
    source: Annotated[SourceChoice, Query(description="PostgreSQL is hot, ClickHouse cold.")] = SourceChoice.AUTO,
    fresh: Annotated[bool, Query(description="Compute anew, without the cache.")] = False,
    breakdown: Annotated[
        AttributeName | None,
        Query(description="A name in the users' stored context: the answer for each of its values as well."),
    ] = None,
    cohorts: Annotated[
        CohortWidth | None,
        Query(
            description="The answer for the users who were exposed first on each UTC day, or in each ISO week, as well;"
            " not together with `breakdown`."
        ),
    ] = None,
    effect_over_time: Annotated[
        bool | None,
        Query(
            description="Whether metrics are followed day by day. Left out: where a stored metric is asked for;"
            " built-in ones alone may be answered from counts, which know no users."
        ),
    ] = None,
    cuped_days: Annotated[
        int | None,
        Query(
            ge=1,
            le=MAX_COVARIATE_DAYS,
            description="Adjust conversion_rate and value_per_user by the same number from so many days before the"
            " exposure. Stored metrics say it themselves.",
        ),
    ] = None,
) -> Question:
    """Read the question.

    Raises:
        Invalid: the dates are in the wrong order, a context filter is out of bounds, or users are to be divided twice.
    """
    if start_date is not None and end_date is not None and end_date <= start_date:
        raise Invalid.field("end_date", "must be after start_date")
    refuse_two_divisions(breakdown, cohorts)
    return Question(
        event_types=tuple(dict.fromkeys(event_type)),
        start=start_date,
        end=end_date,
        granularity=granularity,
        metrics=tuple(dict.fromkeys(metrics)),
        include_ci=include_ci,
        confidence_level=confidence_level,
        min_sample=min_sample,
        include_overrides=include_overrides,
        source=source,
        fresh=fresh,
        context=_context_of(request),
        breakdown=breakdown,
        cohorts=cohorts,
        effect_over_time=effect_over_time,
        cuped_days=cuped_days,
    )


def refuse_two_divisions(breakdown: str | None, cohorts: CohortWidth | None) -> None:
    """Refuse a question that divides the users in two ways.

    Raises:
        Invalid: it does.
    """
    if breakdown is not None and cohorts is not None:
        raise Invalid.field(
            "cohorts",
            "users are divided by an attribute or by when they came; leave out cohorts or breakdown, and ask for the"
            " other one in a second question; context.<name>=<value> with cohorts is about the users of one value",
        )


def reading_of(
    *,
    compare: Annotated[
        list[Annotated[str, StringConstraints(pattern=_PAIR)]],
        Query(
            default_factory=list,
            max_length=_MOST_PAIRS,
            description="Repeatable: a pair of variants to compare besides each one with the control, as"
            " `<variant>:<against>`. All comparisons of the answer are one family for the adjusted p-values.",
        ),
    ],
    prior_alpha: Annotated[
        float, Query(ge=_SMALLEST_PRIOR, le=_LARGEST_PRIOR, description="Beta prior of rates; 1 and 1 are flat.")
    ] = 1.0,
    prior_beta: Annotated[float, Query(ge=_SMALLEST_PRIOR, le=_LARGEST_PRIOR, description="With `prior_alpha`.")] = 1.0,
    prior_lift_mean: Annotated[
        float,
        Query(
            ge=-_LARGEST_LIFT,
            le=_LARGEST_LIFT,
            description="Normal prior of the lift of all other metrics, a fraction; used with `prior_lift_std`.",
        ),
    ] = 0.0,
    prior_lift_std: Annotated[
        float | None, Query(ge=_SMALLEST_STD, le=_LARGEST_LIFT, description="Left out: a flat prior.")
    ] = None,
    planned_sample: Annotated[
        int | None,
        Query(ge=1, le=_MOST_PLANNED, description="Planned users of all variants; the plan's own goes before."),
    ] = None,
    target_mde: Annotated[
        float | None,
        Query(gt=0, le=_LARGEST_LIFT, description="Without a planned sample: days remain until this is detectable."),
    ] = None,
) -> Reading:
    """Read how the observations are to be read.

    Raises:
        Invalid: a prior has a mean and no deviation, and so would be none.
    """
    if prior_lift_mean != 0 and prior_lift_std is None:
        raise Invalid.field(
            "prior_lift_mean", "is of use with prior_lift_std alone; give that as well, or leave it out"
        )
    pairs = dict.fromkeys(compare)
    return Reading(
        compare=tuple(Pair(*pair.split(":")) for pair in pairs),
        prior_alpha=prior_alpha,
        prior_beta=prior_beta,
        prior_lift_mean=prior_lift_mean,
        prior_lift_std=prior_lift_std,
        planned_sample=planned_sample,
        target_mde=target_mde,
    )


def _context_of(request: Request) -> tuple[ContextFilter, ...]:
    given = [
        (name.removeprefix(CONTEXT_PREFIX), value)
        for name, value in request.query_params.multi_items()
        if name.startswith(CONTEXT_PREFIX)
    ]
    if len(given) > MOST_CONTEXT_FILTERS:
        raise Invalid.field(CONTEXT_PREFIX + given[-1][0], f"at most {MOST_CONTEXT_FILTERS} context filters")
    for index, (name, value) in enumerate(given):
        try:
            _check_context(name, value)
        except ValueError as error:
            raise Invalid.field(CONTEXT_PREFIX + name, str(error)) from error
        if any(name == earlier for earlier, _ in given[:index]):
            raise Invalid.field(CONTEXT_PREFIX + name, "give each name once")
    return tuple(ContextFilter(name, value) for name, value in given)


def _check_context(name: str, value: str) -> None:
    if not 1 <= len(name) <= LONGEST_CONTEXT_NAME:
        raise ValueError(f"the name after 'context.' has 1 to {LONGEST_CONTEXT_NAME} characters")
    if len(value) > LONGEST_CONTEXT_VALUE:
        raise ValueError(f"must have at most {LONGEST_CONTEXT_VALUE} characters")
    refuse_control_characters(name)
    refuse_control_characters(value)
