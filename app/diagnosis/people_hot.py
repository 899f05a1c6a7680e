"""SQL of who came in, in PostgreSQL. What counts is the same as in `people_cold`; a test holds the two equal."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.diagnosis.people import MOST_NAMES, MOST_VALUES, People, people_of
from app.results.exposed_hot import TEXT_OF_ATTRIBUTE, exposed_in_postgres, left_out
from app.results.values import Exclusion, Question, Subject

# Behind `exposed`. Users with an override are not divided by the plan.
_USERS = """
SELECT variant_id, CAST(exposed_at AT TIME ZONE 'UTC' AS date) AS day,
    width_bucket(exposed_at, CAST(:moments AS timestamptz[])) AS stretch, count(*) AS users
FROM exposed WHERE planned = 1 GROUP BY 1, 2, 3"""
_USERS_WITHOUT_MOMENTS = """
SELECT variant_id, CAST(exposed_at AT TIME ZONE 'UTC' AS date) AS day, 0 AS stretch, count(*) AS users
FROM exposed WHERE planned = 1 GROUP BY 1, 2"""
_TEXT = TEXT_OF_ATTRIBUTE.format(context="held.context", name="named.name")
_ATTRIBUTES = f""", held AS MATERIALIZED (
    SELECT exposed.variant_id, stored.context
    FROM exposed JOIN assignments AS stored ON stored.user_id = exposed.user_id
    WHERE stored.experiment_id = CAST(:experiment_id AS bigint) AND exposed.planned = 1
      AND jsonb_typeof(stored.context) = 'object'
), named AS MATERIALIZED (
    SELECT name FROM held CROSS JOIN jsonb_object_keys(held.context) AS name
    GROUP BY name ORDER BY count(*) DESC, name COLLATE "C" LIMIT :most_names
), valued AS MATERIALIZED (
    SELECT name, value, variant_id, count(*) AS users
    FROM (SELECT named.name, {_TEXT} AS value, held.variant_id FROM held CROSS JOIN named) AS told
    WHERE value IS NOT NULL GROUP BY name, value, variant_id
), ranked AS (
    SELECT name, value,
        row_number() OVER (PARTITION BY name ORDER BY sum(users) DESC, value COLLATE "C") AS place
    FROM valued GROUP BY name, value
)
SELECT valued.name, valued.value, valued.variant_id, valued.users
FROM valued JOIN ranked ON ranked.name = valued.name AND ranked.value = valued.value
WHERE ranked.place <= :most_values
ORDER BY valued.name COLLATE "C", ranked.place, valued.variant_id"""  # noqa: S608  # Made of constants.


async def people_in_postgres(connection: AsyncConnection, subject: Subject, moments: Sequence[datetime]) -> People:
    """Count in the connection's transaction, which is prepared; the moments rise."""
    question = Question()
    who, parameters = exposed_in_postgres(subject, question)
    users, own = (_USERS, {"moments": list(moments)}) if moments else (_USERS_WITHOUT_MOMENTS, {})
    most = {"most_names": MOST_NAMES, "most_values": MOST_VALUES}
    reasons = await _rows(connection, f"{who}\n{left_out(question)}", parameters)
    return people_of(
        await _rows(connection, who + users, {**parameters, **own}),
        sum(int(row["users"]) for row in reasons if row["reason"] == Exclusion.TWO_VARIANTS.value),
        await _rows(connection, who + _ATTRIBUTES, {**parameters, **most}),
    )


async def _rows(connection: AsyncConnection, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in (await connection.execute(text(sql), parameters)).mappings()]
