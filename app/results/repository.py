"""SQL about how new PostgreSQL's rows are."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.results.values import Freshness

# Both maxima come from the end of an index.
_FRESHNESS = text(
    "SELECT clock_timestamp() AS now,"
    " greatest((SELECT max(ingested_at) FROM events), (SELECT max(ingested_at) FROM assignments)) AS newest,"
    " ARRAY(SELECT epoch FROM change_epochs WHERE topic IN ('experiments', 'overrides') ORDER BY topic) AS epochs"
)


class FreshnessRepository:
    """Reads what an answer's cache key says about its data."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self) -> Freshness:
        row = (await self._connection.execute(_FRESHNESS)).one()
        return Freshness(newest=row.newest, epochs=tuple(row.epochs), now=row.now)
