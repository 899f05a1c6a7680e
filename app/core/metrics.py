"""Prometheus metrics, in one registry per process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


disable_created_metrics()  # type: ignore[no-untyped-call]  # The library leaves it untyped.


class Metrics:
    """Every metric that the service exposes, by the names that dashboards use."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests_total",
            "Requests by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of the request to the last of the answer.",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.assignments = Counter(
            "assignments_total", "Assignment answers by reason.", ["reason"], registry=self.registry
        )
        self.events = Counter("events_total", "Events by what became of them.", ["outcome"], registry=self.registry)
        self.cache = Counter(
            "cache_lookups_total",
            "Cache look-ups by cache and result.",
            ["cache", "result"],
            registry=self.registry,
        )
        self.cache_errors = Counter(
            "cache_errors_total",
            "Redis calls that failed; each was answered without it.",
            registry=self.registry,
        )
        self.write_batch_rows = Histogram(
            "write_batch_rows",
            "Rows committed together by group commit.",
            ["kind"],
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self.registry,
        )
        self.pool_in_use = Gauge(
            "database_pool_connections_in_use", "Connections checked out now.", registry=self.registry
        )
        self.pool_size = Gauge("database_pool_connections_max", "The pool's size.", registry=self.registry)
        self.outbox_backlog = Gauge(
            "outbox_backlog_rows", "Outbox rows that are not yet in ClickHouse.", registry=self.registry
        )
        self.outbox_oldest = Gauge(
            "outbox_oldest_age_seconds",
            "Age of the oldest row not yet in ClickHouse.",
            registry=self.registry,
        )
        self.watermark_lag = Gauge(
            "watermark_lag_seconds",
            "Age of the ingestion time up to which ClickHouse is proven complete.",
            registry=self.registry,
        )
        self.relayed_rows = Counter(
            "relayed_rows_total",
            "Rows inserted into ClickHouse, by table.",
            ["table"],
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "dead_letters_total",
            "Messages that could not become rows and were put aside, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.loader_lag = Gauge(
            "loader_lag_records",
            "Messages of a partition that this process holds and that are not yet in ClickHouse.",
            ["topic", "partition"],
            registry=self.registry,
        )
        self.loader_flush = Histogram(
            "loader_flush_duration_seconds",
            "Time from the start of a flush until its offsets are committed, waiting for ClickHouse included.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.loader_flush_messages = Histogram(
            "loader_flush_messages",
            "Messages flushed together.",
            buckets=(1, 10, 100, 500, 1000, 2500, 5000, 10_000, 20_000, 50_000),
            registry=self.registry,
        )
        self.loader_retries = Counter(
            "loader_retries_total",
            "Flushes that had to be tried again, because ClickHouse was away or refused.",
            registry=self.registry,
        )
        self.loader_last_flush = Gauge(
            "loader_last_flush_timestamp_seconds",
            "When the last flush was committed, as Unix time; 0 before the first.",
            registry=self.registry,
        )
        self.reconciled = Gauge(
            "reconciliation_last_success_timestamp_seconds",
            "When PostgreSQL and ClickHouse were compared last, as Unix time; 0 before the first time.",
            registry=self.registry,
        )
        self.reconciled_until = Gauge(
            "reconciliation_reconciled_until_timestamp_seconds",
            "Ingestion time before which ClickHouse holds what PostgreSQL does, as Unix time.",
            registry=self.registry,
        )
        self.mismatched_rows = Gauge(
            "reconciliation_mismatched_rows",
            "Rows that ClickHouse lacks or has too many, and that could not be repaired.",
            registry=self.registry,
        )
        self.reconciliation_repaired = Counter(
            "reconciliation_repaired_rows_total",
            "Rows that ClickHouse lacked and was sent again from PostgreSQL.",
            registry=self.registry,
        )
        self.slot_retained = Gauge(
            "replication_slot_retained_bytes",
            "Write-ahead log that PostgreSQL keeps for a replication slot.",
            ["slot"],
            registry=self.registry,
        )
        self.slot_flush_lag = Gauge(
            "replication_slot_flush_lag_bytes",
            "Write-ahead log that the slot's reader has not confirmed yet.",
            ["slot"],
            registry=self.registry,
        )
        self.slot_active = Gauge(
            "replication_slot_active",
            "Whether somebody reads the replication slot now.",
            ["slot"],
            registry=self.registry,
        )
        self.slot_wal_status = Gauge(
            "replication_slot_wal_status",
            "1 for the state of the slot's write-ahead log: reserved, extended, unreserved or lost.",
            ["slot", "status"],
            registry=self.registry,
        )
        self.default_partition_rows = Gauge(
            "default_partition_rows",
            "Rows in a DEFAULT partition; anything but 0 means a partition was missing.",
            ["table"],
            registry=self.registry,
        )
        self.rollups_built_until = Gauge(
            "rollup_built_until_timestamp_seconds",
            "Ingestion time up to which results are counted ahead, as Unix time.",
            registry=self.registry,
        )
        self.rollup_duration = Histogram(
            "rollup_step_duration_seconds",
            "Time to count one step of the rollups.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
            registry=self.registry,
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)
