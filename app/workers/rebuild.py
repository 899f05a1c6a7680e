"""`python -m app.workers.rebuild`: build ClickHouse's tables anew while everything runs, and end."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import asyncpg

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database, StoreUnavailable
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.pipeline.exclusive import own_connection
from app.pipeline.kafka_history import load_from_kafka
from app.pipeline.kafka_offsets import KafkaUnavailable
from app.pipeline.lanes import RELAY_LANES, kafka_lanes
from app.pipeline.loader import Loader
from app.pipeline.marker import Standing, find_marker
from app.pipeline.rebuilding import CannotRebuild, NewTables, Rebuilding
from app.pipeline.reconciliation import Reconciliation
from app.workers.command import CommandFailed, exit_code_of, one_line, say

# An answer takes no longer than ClickHouse is given for it, and a moment.
_MOMENT_S = 5.0
_LOOK_EVERY_S = 1.0
_PROVEN_WITHIN_S = 24 * 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild; returns 0 when the new tables hold everything, 1 otherwise."""
    options = _options(arguments)

    def work() -> int:
        settings = Settings.from_environment()
        configure_logging("CRITICAL", readable=sys.stderr.isatty())  # The lines printed say it all.
        return asyncio.run(_rebuild(settings, options))

    return exit_code_of(work)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m app.workers.rebuild",
        description="Build ClickHouse's tables anew beside the old ones, from PostgreSQL, and exchange them, while"
        " service and loader run. From the exchange until all was compared once more, results come from PostgreSQL."
        " If it is cut short, run it again.",
    )
    parser.add_argument(
        "--from-kafka", action="store_true", help="read the topics from their beginnings, too: what PostgreSQL dropped"
    )
    parser.add_argument(
        "--drop-old", action="store_true", help="drop the old tables (default: keep them as <table>_before_rebuild)"
    )
    parser.add_argument(
        "--accept-loss",
        type=int,
        default=0,
        metavar="ROWS",
        help="put the new tables in place even if up to so many rows lack that nobody can send; the old ones are kept"
        " (default: 0)",
    )
    parser.add_argument(
        "--settle",
        type=float,
        metavar="SECONDS",
        help="how long answers that are under way are waited for (default: as long as one may take)",
    )
    return parser.parse_args(arguments)


async def _rebuild(settings: Settings, options: argparse.Namespace) -> int:
    _refuse(settings, options)
    async with AsyncExitStack() as stack:
        assert settings.database.url is not None  # noqa: S101  # Refused above.
        database = Database.connect(settings.database.url, pool_size=2, application_name="experimentation-rebuild")
        stack.push_async_callback(database.close)
        clickhouse = await ClickHouse.connect_server(settings.clickhouse)
        stack.push_async_callback(clickhouse.close)
        new_tables = await NewTables.connect_server(settings.clickhouse)
        stack.push_async_callback(new_tables.close)
        try:
            connection = await stack.enter_async_context(own_connection(database))
            return await _run(settings, options, database, connection, clickhouse, new_tables)
        except CannotRebuild as error:
            raise CommandFailed(str(error)) from error
        except KafkaUnavailable as error:
            raise CommandFailed(error.detail) from error
        except (ClickHouseUnavailable, ClickHouseRefused) as error:
            raise CommandFailed(f"ClickHouse: {error}") from error
        except (StoreUnavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CommandFailed(f"PostgreSQL: {one_line(error)}") from error


def _refuse(settings: Settings, options: argparse.Namespace) -> None:
    if settings.database.url is None or settings.clickhouse.host is None:
        raise CommandFailed(
            "DATABASE_URL and CLICKHOUSE_HOST: must be set. With the embedded engine stop the service, delete the"
            " folder clickhouse in DATA_DIR and start it: it fills the history by itself, but for events that"
            " EVENTS_RETENTION_DAYS has dropped, which that folder alone has"
        )
    if settings.clickhouse.cluster is not None:
        raise CommandFailed(
            "CLICKHOUSE_CLUSTER: tables of a cluster cannot be exchanged in one step. Run python -m"
            " app.workers.reconcile --anew with the tables that are wrong, which empties and fills them"
        )
    if options.from_kafka and settings.kafka.bootstrap_servers is None:
        raise CommandFailed("KAFKA_BOOTSTRAP_SERVERS: must be set for --from-kafka")


async def _run(
    settings: Settings,
    options: argparse.Namespace,
    database: Database,
    connection: asyncpg.Connection,
    clickhouse: ClickHouse,
    new_tables: NewTables,
) -> int:
    metrics = Metrics()
    brokers = settings.kafka.bootstrap_servers
    lanes = RELAY_LANES if brokers is None else kafka_lanes()
    loader = Loader(clickhouse, metrics)
    settle_s = settings.clickhouse.read_timeout_s + _MOMENT_S if options.settle is None else options.settle
    rebuilding = Rebuilding(
        database,
        connection,
        clickhouse,
        loader=loader,
        new_loader=Loader(new_tables, metrics),
        lanes=lanes,
        say=say,
        settle_s=settle_s,
    )
    fill = partial(load_from_kafka, brokers, say=say) if options.from_kafka and brokers is not None else None
    lost = await rebuilding.run(fill=fill, drop_old=options.drop_old, accepted_loss=options.accept_loss)
    reconciliation = Reconciliation(database, clickhouse, loader, settings.pipeline, metrics, lanes=lanes)
    proven = not lost and await _until_proven(database, connection, clickhouse, reconciliation)
    say("done: there is a watermark again" if proven else "done, but rows lack; see docs/operations.md")
    return 0 if proven else 1


async def _until_proven(
    database: Database, connection: asyncpg.Connection, clickhouse: ClickHouse, reconciliation: Reconciliation
) -> bool:
    """Compare all of it, taking turns with the service, until nothing lacks."""
    standing = Standing(database)
    give_up_at = time.monotonic() + _PROVEN_WITHIN_S
    say("comparing everything once more")
    while not await standing.is_proven(await find_marker(clickhouse)):
        done = await reconciliation.round(connection)
        if time.monotonic() >= give_up_at:
            return False
        if not done.more:
            await asyncio.sleep(_LOOK_EVERY_S)
    return True


if __name__ == "__main__":
    sys.exit(main())
