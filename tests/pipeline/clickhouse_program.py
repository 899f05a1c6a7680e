"""ClickHouse's HTTP interface over an engine in a process of its own: `clickhouse_program FOLDER PORT`."""

import signal
import sys
from pathlib import Path

from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from tests.pipeline.clickhouse_http import serving

if __name__ == "__main__":
    engine = EmbeddedClickHouse(DataFolder.open(Path(sys.argv[1])), say=print)
    with serving(engine.start(), port=int(sys.argv[2])):
        signal.sigwait({signal.SIGTERM})
    engine.stop()
