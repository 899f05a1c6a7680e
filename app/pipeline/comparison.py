"""Comparing a history with the truth, and sending it what it lacks.

What ClickHouse has and PostgreSQL has not is counted and left alone: a PostgreSQL that was restored from a backup
must not empty the history.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from app.pipeline.history import History
from app.pipeline.loader import Loader
from app.pipeline.truth import EXPERIMENTS, NOTHING, Digest, Piece, StoredRow, Subject, Truth, Unit

HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
# What is compared as a whole is compared from here to there, and recorded under the first of them.
EVER = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime(2200, 1, 1, tzinfo=UTC)

# By experiment, '' for events that name none: rows in PostgreSQL and in ClickHouse.
Differences = Mapping[str, tuple[int, int]]

# Called before rows are sent that were ingested at this moment or later.
Announce = Callable[[datetime], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What PostgreSQL holds, how many rows the history was sent, and how it differs all the same.

    changed: whether the history holds something else since; what was sent may be of a kind that it never takes.
    """

    truth: Digest
    repaired: int = 0
    missing: int = 0
    extra: int = 0
    differences: Differences | None = None
    changed: bool = False


class Comparison:
    """Compares one history, and repairs it with the messages that the stream brought."""

    def __init__(self, truth: Truth, history: History, loader: Loader, *, announce: Announce) -> None:
        self._truth = truth
        self._history = history
        self._loader = loader
        self._announce = announce

    async def hours(
        self,
        subject: Subject,
        start: datetime,
        end: datetime,
        *,
        recorded: Mapping[datetime, Digest],
        given_up_before: datetime | None = None,
    ) -> Mapping[datetime, Outcome]:
        """Compare and repair each hour of a range; where PostgreSQL's rows are gone, with what was `recorded` of them.

        What the history has given up it need not hold: PostgreSQL's rows of that time are only described.

        Raises:
            ClickHouseUnavailable: it cannot be reached; what was repaired so far stays.
        """
        held = _by_start(await self._history.digests(subject, start, end, Unit.HOUR))
        outcomes: dict[datetime, Outcome] = {}
        hour = start
        while hour < end:
            stored = {} if hour in recorded else await self._stored(subject, hour)
            if given_up_before is not None and hour < given_up_before:
                outcomes[hour] = Outcome(recorded[hour] if hour in recorded else _sum(stored.values()))
            elif hour in recorded:
                outcomes[hour] = _against_record(recorded[hour], _sum(held.get(hour, {}).values()))
            else:
                outcomes[hour] = await self._repaired(subject, hour, hour + HOUR, stored, held.get(hour, {}))
            hour += HOUR
        return outcomes

    async def span(self, subject: Subject, start: datetime, end: datetime) -> Outcome:
        """Compare and repair a range within one hour."""
        held = _by_experiment(await self._history.digests(subject, start, end, Unit.HOUR))
        stored = _by_experiment(await self._truth.digests(subject, start, end, Unit.HOUR))
        return await self._repaired(subject, start, end, stored, held)

    async def whole(self, subject: Subject, settled_before: datetime) -> Outcome:
        """Compare and repair the present state of few rows that change.

        Those changed since `settled_before` may be on their way; they are not looked at.
        """
        held = _sum((await self._history.digests(subject, EVER, _NEVER, Unit.HOUR)).values())
        stored = _sum((await self._truth.digests(subject, EVER, _NEVER, Unit.HOUR)).values())
        if held == stored:
            return Outcome(stored)
        lacking, _ = await self._differing_now(subject, settled_before, send=True)
        missing, extra = await self._differing_now(subject, settled_before, send=False)
        return Outcome(stored, max(lacking - missing, 0), missing, extra)

    async def _stored(self, subject: Subject, hour: datetime) -> Mapping[int | None, Digest]:
        return _by_start(await self._truth.digests(subject, hour, hour + HOUR, Unit.HOUR)).get(hour, {})

    async def _repaired(
        self,
        subject: Subject,
        start: datetime,
        end: datetime,
        stored: Mapping[int | None, Digest],
        held: Mapping[int | None, Digest],
    ) -> Outcome:
        truth = _sum(stored.values())
        if stored == held:
            return Outcome(truth)
        differences = _differences(stored, held)
        lacking, extra = await self._differing(subject, start, end, send=False)
        if not lacking:
            return Outcome(truth, 0, 0, extra, differences)
        await self._announce(start)
        await self._differing(subject, start, end, send=True)
        missing, extra = await self._differing(subject, start, end, send=False)
        changed = held != _by_experiment(await self._history.digests(subject, start, end, Unit.HOUR))
        return Outcome(truth, lacking - missing, missing, extra, differences, changed)

    async def _differing(self, subject: Subject, start: datetime, end: datetime, *, send: bool) -> tuple[int, int]:
        """Return how many rows the history lacks, sending them or not, and how many it has too many.

        Minute by minute, because identities are held in memory.
        """
        held = _by_start(await self._history.digests(subject, start, end, Unit.MINUTE))
        stored = _by_start(await self._truth.digests(subject, start, end, Unit.MINUTE))
        missing = extra = 0
        for minute in sorted(held.keys() | stored.keys()):
            if held.get(minute) == stored.get(minute):
                continue
            since, until = max(minute, start), min(minute + _MINUTE, end)
            unseen = await self._history.identities(subject, since, until)
            async with aclosing(self._truth.rows(subject, since, until)) as stored_rows:
                async for rows in stored_rows:
                    lacking = [row for row in rows if row.identity not in unseen]
                    unseen.difference_update(row.identity for row in rows)
                    missing += len(lacking)
                    if send and lacking:
                        await self._send(lacking)
            extra += len(unseen)
        return missing, extra

    async def _differing_now(self, subject: Subject, settled_before: datetime, *, send: bool) -> tuple[int, int]:
        # The history first: what it holds then is no newer than the rows that are read next.
        unseen = await self._history.identities(subject, EVER, _NEVER)
        missing, settled = 0, True
        async with aclosing(self._truth.rows(subject, EVER, _NEVER)) as stored_rows:
            async for rows in stored_rows:
                lacking = [row for row in rows if row.identity not in unseen and row.ingested_at < settled_before]
                unseen.difference_update(row.identity for row in rows)
                missing += len(lacking)
                settled = settled and all(row.ingested_at < settled_before for row in rows)
                if send and lacking:
                    await self._send(lacking)
        # An old state of what has just changed is none too many, nor is a draft that was deleted.
        return missing, len(unseen) if settled and subject is not EXPERIMENTS else 0

    async def _send(self, rows: Sequence[StoredRow]) -> None:
        batch = self._loader.batch()
        for row in rows:
            batch.add(row.message)
        # A source of its own: ClickHouse must not take it for an insert that it has seen, whose rows it has lost since.
        await self._loader.store(batch, source=f"repair/{uuid4()}")


def _against_record(recorded: Digest, held: Digest) -> Outcome:
    if held == recorded:
        return Outcome(recorded)
    # Which rows differ is not known any more; at least one does.
    missing = max(recorded.row_count - held.row_count, 0)
    extra = max(held.row_count - recorded.row_count, 0)
    if recorded.row_count == held.row_count:
        missing = extra = 1
    return Outcome(recorded, 0, missing, extra, {"": (recorded.row_count, held.row_count)})


def _differences(stored: Mapping[int | None, Digest], held: Mapping[int | None, Digest]) -> Differences:
    return {
        "" if experiment_id is None else str(experiment_id): (
            stored.get(experiment_id, NOTHING).row_count,
            held.get(experiment_id, NOTHING).row_count,
        )
        for experiment_id in stored.keys() | held.keys()
        if stored.get(experiment_id) != held.get(experiment_id)
    }


def _by_start(digests: Mapping[Piece, Digest]) -> dict[datetime, dict[int | None, Digest]]:
    sorted_: dict[datetime, dict[int | None, Digest]] = {}
    for piece, digest in digests.items():
        sorted_.setdefault(piece.start, {})[piece.experiment_id] = digest
    return sorted_


def _by_experiment(digests: Mapping[Piece, Digest]) -> dict[int | None, Digest]:
    return {
        experiment_id: _sum(digest for piece, digest in digests.items() if piece.experiment_id == experiment_id)
        for experiment_id in {piece.experiment_id for piece in digests}
    }


def _sum(digests: Iterable[Digest]) -> Digest:
    total = NOTHING
    for digest in digests:
        total = total.plus(digest)
    return total
