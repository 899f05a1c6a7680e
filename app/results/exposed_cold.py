"""Who counts, and from when, in ClickHouse: how every statement about the history begins.

The same rules are written in the same words in `exposed_hot`; a property test holds the two equal.

Each part is left open for the next one to close. What is in force is put together of

    stored      assignments                     user_id, variant_id, exposed_at (the assignment), context
    overridden  overrides in force              user_id, variant_id, exposed_at
    sighted     exposure events                 user_id, ts, named (the variant's id; 0: none, or of elsewhere)
    strayed     who was shown another variant   user_id
    shown       who was exposed by an event     like `stored`; `exposed_at` is the event's time
    candidates  who counts unless left out      user_id, variant_id, exposed_at, context, planned (0: by an override)
    exposed     who counts                      user_id, variant_id, exposed_at, planned
    judged      candidates, and why not they    variant_id, exposed_at, planned, reason (from 1; 0: they count)
    assigned    how many would by assignment    variant_id, users
    barred      whose rolled up events go       user_id

of which a statement has those that it needs.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from app.events.messages import MOST_AHEAD
from app.experiments.population import VARIANT_PROPERTY
from app.results import tail
from app.results.observed import EPOCH, MISSING, PLACES, REST
from app.results.values import MOST_SEGMENTS, ContextFilter, Exclusion, Question, Subject
from app.rollups.steps import ORIGIN

# ClickHouse takes a whole number beyond 64 bits for a string. With a fraction after it, it is a number again.
_CONTEXT = r"""if(match(context, '[0-9]{19}'), arrayStringConcat(arrayMap(
        token -> if(match(token, '^-?[0-9]{19,}$'), concat(token, '.0'), token),
        extractAll(context, '"(?:[^"\\\\]|\\\\.)*"|-?[0-9][0-9.eE+-]*|[^"0-9-]+|-'))), context) AS context"""
_STORED = f"""
WITH stored AS (
    SELECT user_id, variant_id, exposed_at, {_CONTEXT} FROM exposures FINAL
    WHERE experiment_id = {{experiment_id:Int64}} AND ingested_at < {{watermark:DateTime64(6, 'UTC')}}"""
_AND_STORED_TAIL = f"""
    UNION ALL SELECT user_id, variant_id, exposed_at, {_CONTEXT} FROM {tail.EXPOSURES}"""
# The newest state, also if it came after the watermark: a merge may have dropped the older one already.
_OVERRIDDEN = """
), overridden AS (
    SELECT user_id, variant_id, exposed_at FROM overrides FINAL
    WHERE experiment_id = {experiment_id:Int64} AND NOT removed"""
_OVERRIDDEN_BY_TAIL = f"""
), overridden AS (
    SELECT user_id, variant_id, exposed_at FROM {tail.OVERRIDES}"""

# An event that names no experiment cannot say of which experiment its variant is. Compared with its quotation marks, a
# key is equal to a string alone, and the properties are parsed once.
_NAMED = f"""if(experiment_id = {{experiment_id:Int64}},
        transform(JSONExtractRaw(properties, '{VARIANT_PROPERTY}'),
            {{variant_keys:Array(String)}}, {{variant_ids:Array(Int64)}}, toInt64(0)), toInt64(0))"""
_NOTHING_NAMED = "toInt64(0)"
# Copies of an event neither move a first moment nor add a user, so they need not be dropped. What is older than all
# assignments may have been given up by one store and not yet by the other, so neither looks at it.
_SIGHTED = """
), sighted AS (
    SELECT user_id, ts, {named} AS named FROM events
    WHERE project_id = {{project_id:Int64}} AND event_type = {{exposure_type:String}}
      AND ingested_at < {{watermark:DateTime64(6, 'UTC')}}
      AND ingested_at >= (SELECT min(exposed_at) FROM stored) - toIntervalMicrosecond({{most_ahead_us:Int64}})"""
_OF_EXPERIMENT = """
      AND experiment_id = {experiment_id:Int64}"""
_OF_ANY_USER = """
      AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})"""
_AND_SIGHTED_TAIL = f"""
    UNION ALL SELECT user_id, ts, named FROM {tail.SIGHTINGS}"""
# Events count in the question's range alone, like all others; what a store has given up before it decides nothing.
# Most experiments have no exposure events that name a variant. Then `any_named` is a constant that lets every condition
# about `strayed` be dropped before anything is planned or run for it.
_STRAYED = """
), (
    SELECT count() > 0 FROM (SELECT 1 FROM sighted WHERE named <> 0 LIMIT 1)
) AS any_named, strayed AS (
    SELECT sighted.user_id AS user_id FROM sighted INNER JOIN (
        SELECT user_id, variant_id FROM stored
    ) AS holding ON sighted.user_id = holding.user_id
    WHERE sighted.named <> 0 AND sighted.named <> holding.variant_id"""
_SIGHTED_SINCE = """ AND sighted.ts >= {since:DateTime64(6, 'UTC')}"""
_SIGHTED_UNTIL = """ AND sighted.ts < {until:DateTime64(6, 'UTC')}"""
_SHOWN = """
), shown AS (
    SELECT holding.user_id AS user_id, any(holding.variant_id) AS variant_id, min(sighted.ts) AS exposed_at,
        any(holding.context) AS context
    FROM sighted INNER JOIN (
        SELECT user_id, variant_id, exposed_at, context FROM stored
    ) AS holding ON sighted.user_id = holding.user_id
    WHERE sighted.ts >= holding.exposed_at GROUP BY holding.user_id"""

_CANDIDATES = """
), candidates AS (
    {by_plan} FROM {exposures}"""
_BY_PLAN = "SELECT user_id, variant_id, exposed_at, context, 1 AS planned"
_NOT_OVERRIDDEN = "user_id NOT IN (SELECT user_id FROM overridden)"
_AND_WITH_OVERRIDES = f""" WHERE {_NOT_OVERRIDDEN}
    UNION ALL
    SELECT overridden.user_id AS user_id, overridden.variant_id AS variant_id, overridden.exposed_at AS exposed_at,
        holding.context AS context, 0 AS planned
    FROM overridden LEFT JOIN (
        SELECT user_id, context FROM stored WHERE user_id IN (SELECT user_id FROM overridden)
    ) AS holding ON overridden.user_id = holding.user_id"""

# Strings and booleans compare as text, numbers by value; objects and lists have no one text and match nothing.
_HAS_CONTEXT = """ifNull(multiIf(
            JSONType(context, {{{prefix}_name_{index}:String}}) IN ('String', 'Bool'),
            JSONExtractString(context, {{{prefix}_name_{index}:String}}) = {{{prefix}_value_{index}:String}},
            JSONType(context, {{{prefix}_name_{index}:String}}) IN ('Int64', 'UInt64', 'Double'),
            JSONExtractFloat(context, {{{prefix}_name_{index}:String}}) = {{{prefix}_number_{index}:Nullable(Float64)}},
            false), false)"""
_WANTED, _UNWANTED = "context", "excluded"
_BEFORE_END = """exposed_at < {until:DateTime64(6, 'UTC')}"""

# In the order of `Exclusion`; the first that holds is the reason.
_OVERRIDE = "user_id IN (SELECT user_id FROM overridden)"
_EXCLUDED_USER = f"user_id IN (SELECT user_id FROM {tail.EXCLUDED_USERS})"
_TWO_VARIANTS = "any_named AND planned = 1 AND user_id IN (SELECT user_id FROM strayed)"

# An attribute's value as what users are divided by: one text for a number however it was written, and the same as in
# PostgreSQL. NULL where there is no one text.
TEXT_OF_ATTRIBUTE = """multiIf(
        JSONType({context}, {name}) IN ('String', 'Bool'),
        toNullable(JSONExtractString({context}, {name})),
        JSONType({context}, {name}) IN ('Int64', 'UInt64', 'Double')
            AND (JSONExtractFloat({context}, {name}) = 0
                OR abs(JSONExtractFloat({context}, {name})) BETWEEN 1e-300 AND 1e300),
        toNullable(toString(JSONExtractFloat({context}, {name}) + 0.)),
        NULL)"""
_VALUE = TEXT_OF_ATTRIBUTE.format(context="context", name="{breakdown:String}")
_LARGEST = """
), (
    SELECT groupArray(value) FROM (
        SELECT assumeNotNull(value) AS value FROM (
            SELECT {value} AS value FROM candidates WHERE {conditions}
        ) WHERE value IS NOT NULL GROUP BY value ORDER BY count() DESC, value LIMIT {most_segments}
    )
) AS largest"""
# Where the cohort of an exposure begins. Days and weeks are counted from a Monday.
_BEGINNING = """toUnixTimestamp64Micro(exposed_at)
        - (toUnixTimestamp64Micro(exposed_at) - {cohort_origin_us:Int64}) % {cohort_width_us:Int64}"""
# A cohort of nobody but those who are left out is one as well, so that they are not taken for others' oldest days.
_NEWEST = """
), (
    SELECT groupArray(value) FROM (
        SELECT value FROM (
            SELECT {value} AS value FROM candidates WHERE {conditions}
        ) GROUP BY value ORDER BY value DESC LIMIT {most_segments}
    )
) AS newest"""
_BEHIND_ARRAY = """, {name} AS ("""
_BEHIND_CTE = """
), {name} AS ("""
# Variant and value make one number, by which all that follows groups as it does by the variant.
_IN_CELLS = """(
        SELECT user_id, exposed_at, context, planned, held * {places} + {place} AS variant_id
        FROM (SELECT user_id, variant_id AS held, exposed_at, context, planned, {value} AS value FROM {source})
    )"""
_PLACE_OF_VALUE = f"""multiIf(isNull(value), toInt64({MISSING}),
            indexOf(largest, ifNull(value, '')) = 0, toInt64({REST}), toInt64(indexOf(largest, ifNull(value, ''))))"""
_PLACE_OF_COHORT = f"""if(indexOf(newest, value) = 0, toInt64({REST}), toInt64(indexOf(newest, value)))"""
_EXPOSED = """
    SELECT user_id, variant_id, exposed_at, planned FROM {source}
    WHERE {conditions}"""
_JUDGED = """
), judged AS (
    SELECT variant_id, exposed_at, planned, multiIf({reasons}0) AS reason FROM {source}
    WHERE {conditions}"""
_ASSIGNED = """
), assigned AS (
    SELECT variant_id, count() AS users FROM {source}
    WHERE {conditions} GROUP BY variant_id"""
_BARRED = """
), barred AS (
    SELECT user_id FROM overridden"""
_AND_EXCLUDED_USERS = f"""
    UNION ALL SELECT user_id FROM {tail.EXCLUDED_USERS}"""
_AND_EXCLUDED_CONTEXT = """
    UNION ALL SELECT user_id FROM stored WHERE """
_AND_STRAYED = """
    UNION ALL SELECT user_id FROM strayed WHERE any_named"""

_PLACE = {reason: place for place, reason in enumerate(Exclusion, start=1)}
# What a reason's place stands for, as an array whose first element is for 0.
REASONS = f"['', {', '.join(repr(reason.value) for reason in Exclusion)}]"

_US = timedelta(microseconds=1)


def exposed_in_clickhouse(
    subject: Subject, question: Question, watermark: datetime, *, with_tail: bool
) -> tuple[str, Mapping[str, Any]]:
    """Return the beginning of a statement, from WITH to the end of `exposed`, and its parameters.

    What follows may add `, name AS (...)`. with_tail: PostgreSQL's rows travel with it. The tables that it needs beside
    ClickHouse's own are those of `app.results.tail.tables_for`.
    """
    sql = "".join((*leading(subject, question, with_tail=with_tail), exposed(subject, question), "\n)"))
    return sql, parameters_for(subject, question, watermark)


def leading(subject: Subject, question: Question, *, with_tail: bool) -> tuple[str, ...]:
    """Return the parts before `exposed`."""
    finds = subject.exposed_by_events or subject.finds_strayed
    strayed = (
        _STRAYED,
        _SIGHTED_SINCE if question.start is not None else "",
        _SIGHTED_UNTIL if question.end is not None else "",
    )
    return (
        *(_STORED, _AND_STORED_TAIL if with_tail else ""),
        _OVERRIDDEN_BY_TAIL if with_tail else _OVERRIDDEN,
        *((_sighted(subject), _AND_SIGHTED_TAIL if with_tail else "") if finds else ()),
        *(strayed if subject.finds_strayed else ()),
        *((_SHOWN,) if subject.exposed_by_events else ()),
        _CANDIDATES.format(by_plan=_BY_PLAN, exposures="shown" if subject.exposed_by_events else "stored"),
        *((_AND_WITH_OVERRIDES,) if question.include_overrides else ()),
    )


def exposed(subject: Subject, question: Question) -> str:
    """Return `exposed`, behind the parts of `leading`; in cells of variant and part where the users are divided."""
    conditions = _all([*_wanted(question), *_not(_reasons(subject, question).values())])
    if not question.is_divided:
        return _BEHIND_CTE.format(name="exposed") + _EXPOSED.format(source="candidates", conditions=conditions)
    if question.cohorts is None:
        array = _LARGEST.format(value=_VALUE, conditions=conditions, most_segments=MOST_SEGMENTS)
    else:
        array = _NEWEST.format(value=_BEGINNING, conditions=_all(_wanted(question)), most_segments=MOST_SEGMENTS)
    cells = _EXPOSED.format(source=_source(question, "candidates"), conditions=conditions)
    return array + _BEHIND_ARRAY.format(name="exposed") + cells


def judged(subject: Subject, question: Question, *, only_left_out: bool = False) -> str:
    """Return `judged`, of all candidates or of those alone who are left out; behind `exposed`."""
    reasons = _reasons(subject, question)
    # `false` makes it a choice among several also where there is no reason.
    cases = ["false, 0", *(f"{condition}, {_PLACE[reason]}" for reason, condition in reasons.items())]
    # Asked in this way the index finds those few.
    any_reason = [f"({' OR '.join(reasons.values()) or 'false'})"] if only_left_out else []
    return _JUDGED.format(
        reasons="".join(f"{case}, " for case in cases),
        source=_source(question, "candidates"),
        conditions=_all([*_wanted(question), *any_reason]),
    )


def assigned(subject: Subject, question: Question) -> str | None:
    """Return `assigned`, or `None` where all who are assigned are exposed; behind `exposed`.

    Who was never exposed is in no cohort, so that nobody is assigned in one and not exposed in it.
    """
    if not subject.exposed_by_events or question.cohorts is not None:
        return None
    reasons = {**_reasons(subject, question), Exclusion.OVERRIDE: _OVERRIDE}
    conditions = _all([*_wanted(question), *_not(reasons.values())])
    return _ASSIGNED.format(source=_source(question, f"({_BY_PLAN} FROM stored)"), conditions=conditions)


def barred(subject: Subject) -> str:
    """Return `barred`: everybody whom a rule leaves out, exposed or not; behind the parts of `leading`."""
    population = subject.population
    return "".join(
        (
            _BARRED,
            _AND_EXCLUDED_USERS if population.exclude_users else "",
            _AND_EXCLUDED_CONTEXT + _any_excluded_context(subject) if population.exclude_context else "",
            _AND_STRAYED if subject.finds_strayed else "",
        )
    )


def parameters_for(subject: Subject, question: Question, watermark: datetime) -> Mapping[str, Any]:
    """Return what all these parts are to be bound to."""
    population = subject.population
    parameters: dict[str, Any] = {
        "project_id": subject.project_id,
        "experiment_id": subject.experiment_id,
        "watermark": watermark,
        "most_ahead_us": MOST_AHEAD // _US,
        "exposure_type": population.exposure_event_type,
        "variant_ids": [variant.id for variant in subject.variants],
        "variant_keys": [f'"{variant.key}"' for variant in subject.variants],
    }
    if question.start is not None:
        parameters["since"] = question.start
    if question.end is not None:
        parameters["until"] = question.end
    if question.breakdown is not None:
        parameters["breakdown"] = question.breakdown
    if question.cohorts is not None:
        parameters["cohort_width_us"] = question.cohorts.width // _US
        parameters["cohort_origin_us"] = (ORIGIN - EPOCH) // _US
    unwanted = [ContextFilter(value.name, value.value) for value in population.exclude_context]
    return parameters | _context_parameters(_WANTED, question.context) | _context_parameters(_UNWANTED, unwanted)


def _sighted(subject: Subject) -> str:
    named = _NAMED if subject.finds_strayed else _NOTHING_NAMED
    return _SIGHTED.format(named=named) + (_OF_ANY_USER if subject.exposed_by_events else _OF_EXPERIMENT)


def _reasons(subject: Subject, question: Question) -> dict[Exclusion, str]:
    """Return the conditions by which a candidate is left out, in the order of `Exclusion`."""
    population = subject.population
    reasons = {} if question.include_overrides else {Exclusion.OVERRIDE: _OVERRIDE}
    if population.exclude_users:
        reasons[Exclusion.EXCLUDED_USER] = _EXCLUDED_USER
    if population.exclude_context:
        reasons[Exclusion.EXCLUDED_CONTEXT] = _any_excluded_context(subject)
    if subject.finds_strayed:
        reasons[Exclusion.TWO_VARIANTS] = _TWO_VARIANTS
    return reasons


def _any_excluded_context(subject: Subject) -> str:
    count = len(subject.population.exclude_context)
    return " OR ".join(_HAS_CONTEXT.format(prefix=_UNWANTED, index=index) for index in range(count))


def _wanted(question: Question) -> list[str]:
    wanted = [_HAS_CONTEXT.format(prefix=_WANTED, index=index) for index in range(len(question.context))]
    return [*wanted, *([_BEFORE_END] if question.end is not None else [])]


def _not(conditions: Iterable[str]) -> list[str]:
    return [f"NOT ({condition})" for condition in conditions]


def _all(conditions: Iterable[str]) -> str:
    return "\n      AND ".join(conditions) or "true"


def _source(question: Question, table: str) -> str:
    if question.cohorts is not None:
        return _IN_CELLS.format(places=PLACES, place=_PLACE_OF_COHORT, value=_BEGINNING, source=table)
    if question.breakdown is not None:
        return _IN_CELLS.format(places=PLACES, place=_PLACE_OF_VALUE, value=_VALUE, source=table)
    return table


def _context_parameters(prefix: str, wanted: Iterable[ContextFilter]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for index, value in enumerate(wanted):
        parameters[f"{prefix}_name_{index}"] = value.name
        parameters[f"{prefix}_value_{index}"] = value.value
        parameters[f"{prefix}_number_{index}"] = value.number
    return parameters
