"""A service reduced to its embedded parts: it starts them, says where they are, and works until stopped."""

import contextlib
import json
import sys
import time
from pathlib import Path

from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey

ROWS_PER_INSERT = 100


def main(path: str, *parts: str) -> None:
    folder = DataFolder.open(Path(path))
    with contextlib.ExitStack() as stack:
        stack.callback(say, "stopped")
        stack.callback(folder.close)
        postgres, valkey = EmbeddedPostgres(folder, say=say), EmbeddedValkey(folder, say=say)
        clickhouse = EmbeddedClickHouse(folder, say=say)
        for part in (postgres, valkey, clickhouse):
            stack.callback(part.stop)
        urls = {"postgres": postgres.start(), "valkey": valkey.start() if "valkey" in parts else None}
        say(json.dumps(urls))
        if "clickhouse" in parts:
            clickhouse.start()
            insert_until_killed(clickhouse)
        while True:
            time.sleep(60)


def insert_until_killed(clickhouse: EmbeddedClickHouse) -> None:
    """Say how many rows there are, then insert more, saying the number of each acknowledged one."""
    client = clickhouse.connect()
    client.command("CREATE TABLE IF NOT EXISTS numbers (n UInt64) ENGINE = ReplacingMergeTree ORDER BY n")
    found = client.query("SELECT max(n) AS last, count() AS rows FROM numbers FINAL")
    ((last, rows),) = found.result_rows
    say(json.dumps({"last": last, "rows": rows}))
    while True:
        block = "\n".join(f'{{"n":{n}}}' for n in range(last + 1, last + 1 + ROWS_PER_INSERT))
        client.raw_insert("numbers", insert_block=block, fmt="JSONEachRow")
        last += ROWS_PER_INSERT
        say(json.dumps({"acknowledged": last}))


def say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EmbeddedError as error:
        sys.exit(error.message)
    except KeyboardInterrupt:
        sys.exit(130)
