"""A cluster of two shards in the one engine of this process: a stand-in for servers and their Keeper.

The engine knows a cluster whose two shards are both itself, so Distributed tables split inserts and send queries
to each shard as on servers. A row filter shows each shard its own users alone. What needs a Keeper is left out of
the DDL: ON CLUSTER and replication.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from app.core.clickhouse import ClickHouse, _use_cluster
from app.pipeline import schema
from app.pipeline.cluster_ddl import ClusterDdl
from app.pipeline.schema import DDL_FOLDER, statements

CLUSTER = "two_shards"

_ON_CLUSTER = re.compile(r" ON CLUSTER '\w+'")
_REPLICATED = re.compile(r"Replicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?")

# A node takes itself for itself by its port, and only where the cluster's definition does not name one.
_CONFIGURATION = """\
<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers>
        <two_shards>
            <shard><internal_replication>true</internal_replication><replica><host>127.0.0.1</host></replica></shard>
            <shard><internal_replication>true</internal_replication><replica><host>127.0.0.1</host></replica></shard>
        </two_shards>
    </remote_servers>
    <user_directories><users_xml><path>{users}</path></users_xml></user_directories>
</clickhouse>"""
_USERS = """\
<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password/>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <databases><{database}>{filters}</{database}></databases>
        </default>
    </users>
</clickhouse>"""
_FILTER = "<{table}><filter>cityHash64(user_id) % 2 = toInt64(shardNum()) - 1</filter></{table}>"


class TwoShards(ClickHouse):
    """The engine as a client of a cluster."""

    def __init__(
        self, connect: Callable[[int], Client], database: str, *, embedded: bool, build_timeout_s: int
    ) -> None:
        def connect_to_cluster(timeout_s: int) -> Client:
            client = connect(timeout_s)
            _use_cluster(client, CLUSTER)
            return client

        super().__init__(
            connect_to_cluster, database, embedded=embedded, cluster=CLUSTER, build_timeout_s=build_timeout_s
        )

    async def create_database(self) -> None:
        """Do nothing: it was made when the engine was opened."""

    async def command(self, sql: str) -> None:
        await super().command(_REPLICATED.sub(r"\1(", _ON_CLUSTER.sub("", sql)))


def rendered(database: str) -> list[str]:
    """Return all the files' statements for the cluster."""
    ddl = ClusterDdl(CLUSTER, database)
    texts = (file.read_text() for file in sorted(DDL_FOLDER.glob("*.sql")))
    return [done for text in texts for statement in statements(text) for done in ddl.render(statement)]


def configure(folder: Path, database: str) -> Path:
    """Write the engine's configuration for a cluster with this database."""
    spread = re.findall(r"Distributed\('\w+', '\w+', '(\w+)'", "".join(rendered(database)))
    filters = "".join(_FILTER.format(table=table) for table in spread)
    users, configuration = folder / "users.xml", folder / "cluster.xml"
    users.write_text(_USERS.format(database=database, filters=filters))
    configuration.write_text(_CONFIGURATION.format(users=users))
    return configuration


@asynccontextmanager
async def opened(folder: Path, database: str) -> AsyncIterator[ClickHouse]:
    """Open an engine on the folder whose history is spread over two shards; the tables are made."""
    configuration = configure(folder, database)

    def connect(**options: Any) -> Any:
        return clickhouse_connect.get_client(
            interface="chdb",
            path=str(folder / "data"),
            tz_mode="aware",
            chdb_options={"config-file": str(configuration)},
            **options,
        )

    shards = await TwoShards.over_engine(connect, database)
    await schema.migrate(shards)
    yield shards
    await shards.close()
