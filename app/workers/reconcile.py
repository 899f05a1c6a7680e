"""`python -m app.workers.reconcile`: compare PostgreSQL and ClickHouse now, repair what ClickHouse lacks, and end."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime

import asyncpg

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database, StoreUnavailable
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.pipeline.beginning_anew import TABLES, OnlyCopy, begin_anew
from app.pipeline.comparison import EVER
from app.pipeline.exclusive import own_connection
from app.pipeline.lanes import RELAY_LANES, kafka_lanes
from app.pipeline.ledger import Finding
from app.pipeline.loader import Loader
from app.pipeline.reconciliation import NothingProven, Reconciliation
from app.workers.command import CommandFailed, exit_code_of, one_line, say

_COLUMNS = "{:<12} {:<17} {:>12} {:>9} {:>9} {:>9}  {}"

# An answer takes no longer than ClickHouse is given for it, and a moment.
_MOMENT_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; returns 0 when nothing differs any more, 1 when something does or nothing could be compared."""
    options = _options(arguments)

    def work() -> int:
        settings = Settings.from_environment()
        configure_logging("CRITICAL", readable=sys.stderr.isatty())  # The table says it all.
        return asyncio.run(_reconcile(settings, options))

    return exit_code_of(work)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m app.workers.reconcile",
        description="Compare what PostgreSQL and ClickHouse hold of each hour of ingestion that is over, send"
        " ClickHouse what it lacks, and list what differed. Running it at any time, or twice at once, does no harm.",
    )
    parser.add_argument("--from", dest="since", type=_moment, metavar="TIME", help="first hour (default: all)")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="before this (default: the last hour over)")
    parser.add_argument(
        "--anew",
        nargs="*",
        choices=TABLES,
        metavar="TABLE",
        help="take nothing for proven any more, and empty these tables first (of " + ", ".join(TABLES) + "); until the"
        " service has compared everything, results come from PostgreSQL",
    )
    return parser.parse_args(arguments)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it like 2026-01-31T14:00:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


async def _reconcile(settings: Settings, options: argparse.Namespace) -> int:
    if settings.database.url is None or settings.clickhouse.host is None:
        raise CommandFailed(
            "DATABASE_URL and CLICKHOUSE_HOST: must be set; a service with embedded servers compares by itself"
        )
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        database = Database.connect(settings.database.url, pool_size=2, application_name="experimentation-reconcile")
        stack.push_async_callback(database.close)
        clickhouse = await ClickHouse.connect_server(settings.clickhouse)
        stack.push_async_callback(clickhouse.close)
        lanes = RELAY_LANES if settings.kafka.bootstrap_servers is None else kafka_lanes()
        loader = Loader(clickhouse, metrics)
        reconciliation = Reconciliation(database, clickhouse, loader, settings.pipeline, metrics, lanes=lanes)
        try:
            connection = await stack.enter_async_context(own_connection(database))
            if options.anew is not None:
                settle_s = settings.clickhouse.read_timeout_s + _MOMENT_S
                await begin_anew(connection, clickhouse, options.anew, settle_s=settle_s)
            return await _compare(reconciliation, connection, options.since, options.until)
        except OnlyCopy as error:
            raise CommandFailed(str(error)) from error
        except NothingProven as error:
            raise CommandFailed("there is no watermark yet; is the service running, and the loader?") from error
        except (ClickHouseUnavailable, ClickHouseRefused) as error:
            raise CommandFailed(f"ClickHouse: {error}") from error
        except (StoreUnavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CommandFailed(f"PostgreSQL: {one_line(error)}") from error


async def _compare(
    reconciliation: Reconciliation, connection: asyncpg.Connection, since: datetime | None, until: datetime | None
) -> int:
    say(_COLUMNS.format("subject", "hour (UTC)", "rows", "repaired", "missing", "extra", ""))
    totals: Counter[str] = Counter()
    hours: set[datetime] = set()
    async with aclosing(reconciliation.again(connection, since, until)) as progress:
        async for findings in progress:
            for finding in findings:
                hours.add(finding.hour)
                _add(totals, finding)
                _show(finding)
    hours.discard(EVER)
    say(f"hours: {len(hours)}" + "".join(f", {name}: {totals[name]}" for name in ("rows", "repaired")))
    say(f"still missing: {totals['missing']}, unknown to PostgreSQL: {totals['extra']}")
    return 1 if totals["missing"] or totals["extra"] else 0


def _add(totals: Counter[str], finding: Finding) -> None:
    outcome = finding.outcome
    totals["rows"] += outcome.truth.row_count
    totals["repaired"] += outcome.repaired
    totals["missing"] += outcome.missing
    totals["extra"] += outcome.extra


def _show(finding: Finding) -> None:
    """Print what differed, and nothing of what did not."""
    outcome = finding.outcome
    if not (outcome.repaired or outcome.missing or outcome.extra):
        return
    hour = "now" if finding.hour == EVER else f"{finding.hour:%Y-%m-%d %H:%M}"
    counts = (outcome.truth.row_count, outcome.repaired, outcome.missing, outcome.extra)
    verdict = "open" if outcome.missing or outcome.extra else "repaired"
    say(_COLUMNS.format(finding.subject.table, hour, *counts, verdict))


if __name__ == "__main__":
    sys.exit(main())
