"""ClickHouse's rows, described in the same words as PostgreSQL's: see `app.pipeline.truth`."""

from collections.abc import Mapping
from datetime import datetime

from app.core.clickhouse import ClickHouse
from app.pipeline.truth import Digest, Piece, Subject, Unit

_STARTS = {Unit.HOUR: "toStartOfHour", Unit.MINUTE: "toStartOfMinute"}
_IDENTITY = "reinterpretAsUInt64(reverse(substring(MD5({subject.copied_identity}), 1, 8)))"
# Filtered before copies are dropped, which spares reading all other rows: copies of a redelivered row carry the same
# ingestion time, so either all of them are in the range or none is.
_RANGE = """{table} FINAL
PREWHERE ingested_at >= {{start:DateTime64(6, 'UTC')}} AND ingested_at < {{end:DateTime64(6, 'UTC')}}"""
_DIGESTS = f"""
SELECT {{start_of}}(ingested_at) AS start, experiment_id, count() AS row_count, sum({_IDENTITY}) AS checksum
FROM {_RANGE} GROUP BY start, experiment_id
"""  # noqa: S608  # Made of constants.
_IDENTITIES = f"SELECT groupArray({_IDENTITY}) AS identities FROM {_RANGE}"  # noqa: S608  # Likewise.

_SETTINGS = {"do_not_merge_across_partitions_select_final": 1}


class History:
    """Reads what ClickHouse holds. `suffix` names tables that stand beside the ones in use."""

    def __init__(self, clickhouse: ClickHouse, *, suffix: str = "") -> None:
        self._clickhouse = clickhouse
        self._suffix = suffix

    async def digests(self, subject: Subject, start: datetime, end: datetime, unit: Unit) -> Mapping[Piece, Digest]:
        """Say what rows were ingested in the range, for each piece and experiment that has any.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
        """
        rows = await self._clickhouse.rows(
            _DIGESTS.format(subject=subject, table=subject.table + self._suffix, start_of=_STARTS[unit]),
            {"start": start, "end": end},
            settings=_SETTINGS,
        )
        return {Piece(row["start"], row["experiment_id"]): Digest(row["row_count"], row["checksum"]) for row in rows}

    async def identities(self, subject: Subject, start: datetime, end: datetime) -> set[int]:
        """Return the identities of the rows that were ingested in the range.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
        """
        rows = await self._clickhouse.rows(
            _IDENTITIES.format(subject=subject, table=subject.table + self._suffix),
            {"start": start, "end": end},
            settings=_SETTINGS,
        )
        return set(rows[0]["identities"])
