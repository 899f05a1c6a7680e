"""SQL of what became of an empty metric's events, in PostgreSQL. `sent_cold` says the same of ClickHouse."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.diagnosis.facts import Sent
from app.diagnosis.sought import Sought, has_number, kept
from app.measurement import hot_filters
from app.results.exposed_hot import exposed_in_postgres
from app.results.values import Question, Subject

# Behind `exposed`. Each event is counted under the first that is true of it.
_SENT = """, sent AS (
    SELECT exposed.unit, happened.ts < exposed.exposed_at AS early,
        happened.ts >= exposed.exposed_at + CAST(:window_from AS interval)
            AND (CAST(:window_until AS interval) IS NULL
                OR happened.ts < exposed.exposed_at + CAST(:window_until AS interval)) AS inside,
        {keeps} AS kept, {number} AS has_number
    FROM events AS happened LEFT JOIN exposed ON exposed.user_id = happened.user_id
    WHERE happened.project_id = CAST(:project_id AS bigint)
      AND (happened.experiment_id IS NULL OR happened.experiment_id = CAST(:experiment_id AS bigint))
      AND happened.ingested_at >= CAST(:events_since AS timestamptz)
      AND (CAST(:event_types AS text[]) IS NULL OR happened.event_type = ANY (CAST(:event_types AS text[])))
)
SELECT count(*) FILTER (WHERE unit IS NULL) AS of_others, count(*) FILTER (WHERE early) AS early,
    count(*) FILTER (WHERE NOT early AND NOT inside) AS outside,
    count(*) FILTER (WHERE NOT early AND inside AND NOT kept) AS filtered,
    count(*) FILTER (WHERE NOT early AND inside AND kept AND NOT has_number) AS without_number,
    count(*) FILTER (WHERE NOT early AND inside AND kept AND has_number) AS usable
FROM sent"""


async def sent_in_postgres(connection: AsyncConnection, subject: Subject, wanted: Sought, since: datetime) -> Sent:
    """Tell what became of the events, of those ingested from `since` on; the connection's transaction is prepared."""
    who, parameters = exposed_in_postgres(subject, Question())
    keeps, of_filters = kept(wanted.selection, hot_filters.condition)
    number, of_number = has_number(wanted.selection, "happened.value", hot_filters.number_of)
    values = {
        **parameters,
        **of_filters,
        **of_number,
        "project_id": subject.project_id,
        "experiment_id": subject.experiment_id,
        "events_since": since,
        "event_types": list(wanted.selection.event_types) or None,
        "window_from": wanted.since,
        "window_until": wanted.until,
    }
    row = (await connection.execute(text(who + _SENT.format(keeps=keeps, number=number)), values)).mappings().one()
    return Sent(event_types=wanted.selection.event_types, **row)
