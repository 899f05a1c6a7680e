"""Who counts, and from when, in PostgreSQL: how the statement of `hot` begins.

The same rules are written in the same words in `exposed_cold`; a property test holds the two equal.

    overridden  overrides in force              user_id, variant_id, exposed_at
    earliest    the first assignment            at
    sighted     exposure events                 user_id, ts, named (the variant's id; NULL: none, or of elsewhere)
    strayed     who was shown another variant   user_id
    shown       who was exposed by an event     user_id, exposed_at
    candidates  who counts unless left out      unit, user_id, variant_id, assigned_at, exposed_at, planned, reason
    exposed     who counts                      unit, user_id, variant_id, exposed_at, planned (0: by an override)

of which a statement has those that it needs.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Iterable, Mapping
from typing import Any

from app.events.messages import MOST_AHEAD
from app.experiments.population import VARIANT_PROPERTY
from app.results.observed import PLACES, REST
from app.results.values import MOST_SEGMENTS, ContextFilter, Exclusion, Question, Subject
from app.rollups.steps import ORIGIN

_OVERRIDDEN = """
WITH overridden AS MATERIALIZED (
    SELECT user_id, variant_id, exposed_at FROM overrides
    WHERE experiment_id = CAST(:experiment_id AS bigint) AND NOT removed
), earliest AS MATERIALIZED (
    SELECT min(assigned_at) AS at FROM assignments WHERE experiment_id = CAST(:experiment_id AS bigint)
)"""

# What is older than all assignments may have been given up by one store and not yet by the other, so neither looks at
# it. An event that names no experiment cannot say of which experiment its variant is.
NAMED_VARIANTS = f"""unnest(CAST(:variant_ids AS bigint[]), CAST(:variant_keys AS text[])) AS named(id, key)
      ON happened.experiment_id = CAST(:experiment_id AS bigint)
      AND jsonb_typeof(happened.properties -> '{VARIANT_PROPERTY}') = 'string'
      AND happened.properties ->> '{VARIANT_PROPERTY}' = named.key"""
_SIGHTED = """, sighted AS MATERIALIZED (
    SELECT happened.user_id, happened.ts, named.id AS named
    FROM events AS happened {join} {named}
    WHERE happened.project_id = CAST(:project_id AS bigint)
      AND happened.event_type = CAST(:exposure_type AS text)
      AND happened.ingested_at >= (SELECT at FROM earliest) - CAST(:most_ahead AS interval){of}
)"""
_OF_EXPERIMENT = """
      AND happened.experiment_id = CAST(:experiment_id AS bigint)"""
_OF_ANY_USER = """
      AND (happened.experiment_id IS NULL OR happened.experiment_id = CAST(:experiment_id AS bigint))"""
# Events count in the question's range alone, like all others; what a store has given up before it decides nothing.
_STRAYED = """, strayed AS MATERIALIZED (
    SELECT DISTINCT sighted.user_id
    FROM sighted JOIN assignments AS holding ON holding.user_id = sighted.user_id
    WHERE holding.experiment_id = CAST(:experiment_id AS bigint) AND sighted.named <> holding.variant_id
      AND (CAST(:since AS timestamptz) IS NULL OR sighted.ts >= CAST(:since AS timestamptz))
      AND (CAST(:until AS timestamptz) IS NULL OR sighted.ts < CAST(:until AS timestamptz))
)"""
_SHOWN = """, shown AS MATERIALIZED (
    SELECT holding.user_id, min(sighted.ts) AS exposed_at
    FROM sighted JOIN assignments AS holding ON holding.user_id = sighted.user_id
    WHERE holding.experiment_id = CAST(:experiment_id AS bigint) AND sighted.ts >= holding.assigned_at
    GROUP BY holding.user_id
)"""

# Users get a number, because grouping by numbers is far cheaper than grouping by text.
_CANDIDATES = """, candidates AS MATERIALIZED (
    SELECT row_number() OVER () AS unit, entered.* FROM ("""
_BY_PLAN = """
        SELECT stored.user_id, stored.variant_id, stored.assigned_at, {exposed_at} AS exposed_at, 1 AS planned,
            {reason} AS reason{value}
        FROM assignments AS stored{join}
        WHERE stored.experiment_id = CAST(:experiment_id AS bigint){conditions}"""
_JOIN_SHOWN = " LEFT JOIN shown ON shown.user_id = stored.user_id"
_NOT_OVERRIDDEN = "stored.user_id NOT IN (SELECT user_id FROM overridden)"
_AND_WITH_OVERRIDES = """
        UNION ALL
        SELECT overridden.user_id, overridden.variant_id, overridden.exposed_at, overridden.exposed_at, 0 AS planned,
            {reason} AS reason{value}
        FROM overridden
        LEFT JOIN assignments AS stored
          ON stored.experiment_id = CAST(:experiment_id AS bigint) AND stored.user_id = overridden.user_id
        WHERE true{conditions}"""
_CANDIDATES_TAIL = """
    ) AS entered WHERE CAST(:until AS timestamptz) IS NULL OR entered.assigned_at < CAST(:until AS timestamptz)
)"""

# Strings and booleans compare as text, numbers by value; objects and lists have no one text and match nothing. What
# no double holds is left out first, because casting it would be an error.
_HAS_CONTEXT = """CASE jsonb_typeof(stored.context -> CAST(:{prefix}_name_{index} AS text))
            WHEN 'string' THEN stored.context ->> :{prefix}_name_{index} = CAST(:{prefix}_value_{index} AS text)
            WHEN 'boolean' THEN stored.context ->> :{prefix}_name_{index} = CAST(:{prefix}_value_{index} AS text)
            WHEN 'number' THEN CASE
              WHEN CAST(stored.context ->> :{prefix}_name_{index} AS numeric) = 0 THEN
                CAST(:{prefix}_number_{index} AS float8) = 0
              WHEN abs(CAST(stored.context ->> :{prefix}_name_{index} AS numeric)) BETWEEN 1e-300 AND 1e300 THEN
                CAST(stored.context ->> :{prefix}_name_{index} AS float8) = CAST(:{prefix}_number_{index} AS float8)
            END
          END IS TRUE"""
_WANTED, _UNWANTED = "context", "excluded"

# In the order of `Exclusion`; the first that holds is the reason.
_OVERRIDE = "stored.user_id IN (SELECT user_id FROM overridden)"
_EXCLUDED_USER = "{user_id} = ANY (CAST(:excluded_users AS text[]))"
_TWO_VARIANTS = "stored.user_id IN (SELECT user_id FROM strayed)"

# An attribute's value as what users are divided by. One text for a number however it was written, and the same as
# ClickHouse's: its shortest digits, plain up to 21 places and with an exponent beyond. NULL where there is no one text.
TEXT_OF_ATTRIBUTE = r"""CASE jsonb_typeof({context} -> CAST({name} AS text))
              WHEN 'string' THEN {context} ->> {name}
              WHEN 'boolean' THEN {context} ->> {name}
              WHEN 'number' THEN CASE
                WHEN CAST({context} ->> {name} AS numeric) = 0 THEN '0'
                WHEN abs(CAST({context} ->> {name} AS numeric)) NOT BETWEEN 1e-300 AND 1e300 THEN NULL
                WHEN abs(CAST({context} ->> {name} AS float8)) >= 1e-6
                    AND abs(CAST({context} ->> {name} AS float8)) < 1e21 THEN
                  CAST(trim_scale(CAST(CAST(CAST({context} ->> {name} AS float8) AS text) AS numeric)) AS text)
                ELSE regexp_replace(
                  CAST(CAST({context} ->> {name} AS float8) AS text), 'e[+]?(-?)0*', 'e\1')
              END
            END"""
_VALUE = f""",
            {TEXT_OF_ATTRIBUTE.format(context="stored.context", name=":breakdown")} AS value"""
# Where the cohort of an exposure begins. Days and weeks are counted from a Monday, and days of UTC have 24 hours.
_BEGINNING = """,
            date_bin(CAST(:cohort_width AS interval), {exposed_at}, CAST(:cohort_origin AS timestamptz)) AS value"""
# Who counts among the candidates.
_EXPOSED_IN_TIME = """exposed_at IS NOT NULL
      AND (CAST(:until AS timestamptz) IS NULL OR exposed_at < CAST(:until AS timestamptz))"""
_COUNTS = f"""reason IS NULL AND {_EXPOSED_IN_TIME}"""
_LARGEST = f""", segments AS MATERIALIZED (
    SELECT value, row_number() OVER (ORDER BY count(*) DESC, value COLLATE "C") AS place FROM candidates
    WHERE {_COUNTS} AND value IS NOT NULL
    GROUP BY value ORDER BY count(*) DESC, value COLLATE "C" LIMIT {MOST_SEGMENTS}
)"""
# A cohort of nobody but those who are left out is one as well, so that they are not taken for others' oldest days.
_NEWEST = f""", segments AS MATERIALIZED (
    SELECT value, row_number() OVER (ORDER BY value DESC) AS place FROM candidates
    WHERE {_EXPOSED_IN_TIME}
    GROUP BY value ORDER BY value DESC LIMIT {MOST_SEGMENTS}
)"""
# Variant and value make one number, by which all that follows groups as it does by the variant.
_CELLS = f""", cells AS MATERIALIZED (
    SELECT unit, user_id, assigned_at, exposed_at, planned, reason,
        variant_id * {PLACES} + CASE WHEN candidates.value IS NULL THEN 0 ELSE coalesce(place, {REST}) END AS variant_id
    FROM candidates LEFT JOIN segments ON segments.value = candidates.value
)"""
_EXPOSED = """, exposed AS NOT MATERIALIZED (
    SELECT unit, user_id, variant_id, exposed_at, planned FROM {source}
    WHERE {counts}
)"""
_LEFT_OUT = """SELECT variant_id, reason, count(*) AS users FROM {source}
    WHERE reason IS NOT NULL AND exposed_at IS NOT NULL
      AND (CAST(:until AS timestamptz) IS NULL OR exposed_at < CAST(:until AS timestamptz))
    GROUP BY variant_id, reason"""
_ASSIGNED = """SELECT variant_id, count(*) AS users FROM {source}
    WHERE planned = 1 AND reason IS NULL GROUP BY variant_id"""


def exposed_in_postgres(subject: Subject, question: Question) -> tuple[str, Mapping[str, Any]]:
    """Return the beginning of a statement, from WITH to the end of `exposed`, and its parameters.

    What follows may add `, name AS (...)`.
    """
    finds = subject.exposed_by_events or subject.finds_strayed
    parts = (
        _OVERRIDDEN,
        *((_sighted(subject),) if finds else ()),
        *((_STRAYED,) if subject.finds_strayed else ()),
        *((_SHOWN,) if subject.exposed_by_events else ()),
        *(_CANDIDATES, _by_plan(subject, question)),
        *((_by_override(subject, question),) if question.include_overrides else ()),
        _CANDIDATES_TAIL,
        *((_NEWEST if question.breakdown is None else _LARGEST, _CELLS) if question.is_divided else ()),
        _EXPOSED.format(source=_source(question), counts=_COUNTS),
    )
    return "".join(parts), _parameters(subject, question)


def left_out(question: Question) -> str:
    """Return the statement of how many candidates do not count, and why, behind `exposed`."""
    return _LEFT_OUT.format(source=_source(question))


def assigned(subject: Subject, question: Question) -> str | None:
    """Return the statement of how many would count by assignment, or `None` where these are all who do.

    Who was never exposed is in no cohort, so that nobody is assigned in one and not exposed in it.
    """
    if not subject.exposed_by_events or question.cohorts is not None:
        return None
    return _ASSIGNED.format(source=_source(question))


def _source(question: Question) -> str:
    return "cells" if question.is_divided else "candidates"


def _sighted(subject: Subject) -> str:
    # Of events that name no variant only the moment matters, and only where events expose.
    if subject.exposed_by_events:
        return _SIGHTED.format(join="LEFT JOIN", named=NAMED_VARIANTS, of=_OF_ANY_USER)
    return _SIGHTED.format(join="JOIN", named=NAMED_VARIANTS, of=_OF_EXPERIMENT)


def _by_plan(subject: Subject, question: Question) -> str:
    reasons: dict[Exclusion, str] = {} if question.include_overrides else {Exclusion.OVERRIDE: _OVERRIDE}
    reasons |= _exclusions(subject, "stored.user_id")
    if subject.finds_strayed:
        reasons[Exclusion.TWO_VARIANTS] = _TWO_VARIANTS
    exposed_at = "shown.exposed_at" if subject.exposed_by_events else "stored.assigned_at"
    return _BY_PLAN.format(
        exposed_at=exposed_at,
        reason=_reason(reasons),
        value=_value(question, exposed_at),
        join=_JOIN_SHOWN if subject.exposed_by_events else "",
        conditions=_and([*_wanted(question), *([_NOT_OVERRIDDEN] if question.include_overrides else [])]),
    )


def _by_override(subject: Subject, question: Question) -> str:
    return _AND_WITH_OVERRIDES.format(
        reason=_reason(_exclusions(subject, "overridden.user_id")),
        value=_value(question, "overridden.exposed_at"),
        conditions=_and(_wanted(question)),
    )


def _exclusions(subject: Subject, user_id: str) -> dict[Exclusion, str]:
    population = subject.population
    reasons: dict[Exclusion, str] = {}
    if population.exclude_users:
        reasons[Exclusion.EXCLUDED_USER] = _EXCLUDED_USER.format(user_id=user_id)
    if population.exclude_context:
        reasons[Exclusion.EXCLUDED_CONTEXT] = " OR ".join(
            _HAS_CONTEXT.format(prefix=_UNWANTED, index=index) for index in range(len(population.exclude_context))
        )
    return reasons


def _reason(reasons: Mapping[Exclusion, str]) -> str:
    cases = "".join(f" WHEN {condition} THEN '{reason.value}'" for reason, condition in reasons.items())
    return f"CASE{cases} END" if cases else "CAST(NULL AS text)"


def _value(question: Question, exposed_at: str) -> str:
    """Return the column that divides the users, if they are to be divided."""
    if question.cohorts is not None:
        return _BEGINNING.format(exposed_at=exposed_at)
    return "" if question.breakdown is None else _VALUE


def _wanted(question: Question) -> list[str]:
    return [_HAS_CONTEXT.format(prefix=_WANTED, index=index) for index in range(len(question.context))]


def _and(conditions: Iterable[str]) -> str:
    return "".join(f"\n          AND {condition}" for condition in conditions)


def _parameters(subject: Subject, question: Question) -> Mapping[str, Any]:
    population = subject.population
    parameters: dict[str, Any] = {"experiment_id": subject.experiment_id, "until": question.end}
    if subject.exposed_by_events or subject.finds_strayed:
        parameters |= {**sighting_parameters(subject), "most_ahead": MOST_AHEAD}
    if subject.finds_strayed:
        parameters["since"] = question.start
    if population.exclude_users:
        parameters["excluded_users"] = list(population.exclude_users)
    if question.breakdown is not None:
        parameters["breakdown"] = question.breakdown
    if question.cohorts is not None:
        parameters |= {"cohort_width": question.cohorts.width, "cohort_origin": ORIGIN}
    unwanted = [ContextFilter(value.name, value.value) for value in population.exclude_context]
    return parameters | _context_parameters(_WANTED, question.context) | _context_parameters(_UNWANTED, unwanted)


def sighting_parameters(subject: Subject) -> Mapping[str, Any]:
    """Return what an experiment's exposure events are found by."""
    return {
        "project_id": subject.project_id,
        "exposure_type": subject.population.exposure_event_type,
        "variant_ids": [variant.id for variant in subject.variants],
        "variant_keys": [variant.key for variant in subject.variants],
    }


def _context_parameters(prefix: str, wanted: Iterable[ContextFilter]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for index, value in enumerate(wanted):
        parameters[f"{prefix}_name_{index}"] = value.name
        parameters[f"{prefix}_value_{index}"] = value.value
        parameters[f"{prefix}_number_{index}"] = value.number
    return parameters
