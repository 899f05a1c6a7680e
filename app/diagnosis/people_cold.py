"""SQL of who came in, in ClickHouse with PostgreSQL's newest rows. What counts is the same as in `people_hot`."""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from app.core.clickhouse import ClickHouse
from app.diagnosis.people import MOST_NAMES, MOST_VALUES, People, people_of
from app.measurement.stores import SETTINGS
from app.results import exposed_cold
from app.results.tail import tables_for
from app.results.values import Exclusion, Question, Subject, Tail

_EPOCH, _US = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
# Behind `exposed`. Users with an override are not divided by the plan.
_USERS = """
)
SELECT variant_id, toDate32(exposed_at) AS day,
    arrayCount(moment -> moment <= toUnixTimestamp64Micro(exposed_at), {moments:Array(Int64)}) AS stretch,
    count() AS users
FROM exposed WHERE planned = 1 GROUP BY variant_id, day, stretch"""
# Behind `judged`.
_IN_TWO = f"""
)
SELECT count() AS users FROM judged WHERE {exposed_cold.REASONS}[reason + 1] = '{Exclusion.TWO_VARIANTS.value}'"""
# Behind `exposed`. The contexts are looked through twice, because a part that is named is computed wherever it is used.
_HELD = """
), held AS (
    SELECT exposed.variant_id AS variant_id, holding.context AS context
    FROM exposed INNER JOIN (SELECT user_id, context FROM stored) AS holding ON exposed.user_id = holding.user_id
    WHERE exposed.planned = 1 AND JSONType(holding.context) = 'Object'
)"""
_NAMES = f"""
SELECT name FROM (SELECT arrayJoin(arrayDistinct(JSONExtractKeys(context))) AS name FROM held)
GROUP BY name ORDER BY count() DESC, name LIMIT {MOST_NAMES}"""
_TEXT = exposed_cold.TEXT_OF_ATTRIBUTE.format(context="context", name="name")
_VALUES = f"""
SELECT name, value, arm.1 AS variant_id, arm.2 AS users FROM (
    SELECT name, value, place, arrayJoin(arms) AS arm FROM (
        SELECT name, value, arms, row_number() OVER (PARTITION BY name ORDER BY all_users DESC, value) AS place FROM (
            SELECT name, value, groupArray((variant_id, users)) AS arms, sum(users) AS all_users FROM (
                SELECT name, assumeNotNull(told) AS value, variant_id, count() AS users FROM (
                    SELECT name, variant_id, {_TEXT} AS told
                    FROM (SELECT variant_id, context, arrayJoin({{names:Array(String)}}) AS name FROM held)
                ) WHERE told IS NOT NULL GROUP BY name, value, variant_id
            ) GROUP BY name, value
        )
    ) WHERE place <= {MOST_VALUES}
) ORDER BY name, place, variant_id"""


async def people_in_history(
    clickhouse: ClickHouse, subject: Subject, moments: Sequence[datetime], watermark: datetime, tail: Tail
) -> People:
    """Count what was ingested before the watermark, and the rows of `tail`; the moments rise.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: the history's tables are not there, or not as expected.
    """
    question, tables = Question(), tables_for(subject, tail)
    parameters = exposed_cold.parameters_for(subject, question, watermark)
    exposed = "".join(
        (*exposed_cold.leading(subject, question, with_tail=True), exposed_cold.exposed(subject, question))
    )

    async def rows(sql: str, own: Mapping[str, Any] = MappingProxyType({})) -> list[dict[str, Any]]:
        return await clickhouse.rows(sql, {**parameters, **own}, settings=SETTINGS, tables=tables)

    users = await rows(exposed + _USERS, {"moments": [(moment - _EPOCH) // _US for moment in moments]})
    judged = exposed_cold.judged(subject, question, only_left_out=True)
    (in_two,) = await rows(exposed + judged + _IN_TWO)
    names = [row["name"] for row in await rows(exposed + _HELD + _NAMES)]
    values = await rows(exposed + _HELD + _VALUES, {"names": names}) if names else []
    return people_of(users, int(in_two["users"]), values)
