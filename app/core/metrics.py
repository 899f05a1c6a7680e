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
            "Outbox messages that could not become rows and were put aside.",
            registry=self.registry,
        )
        self.default_partition_rows = Gauge(
            "default_partition_rows",
            "Rows in a DEFAULT partition; anything but 0 means a partition was missing.",
            ["table"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)
