"""What callers can do wrong about metrics."""

from app.core.errors import Conflict, KeyTaken, NotFound, ReferenceNotFound


class MetricNotFound(ReferenceNotFound):
    slug = "metric-not-found"
    title = "No such metric"
    noun = "metric"


class MetricVersionNotFound(NotFound):
    slug = "metric-version-not-found"
    title = "The metric has no such version"

    def __init__(self, key: str, version: int, latest: int) -> None:
        super().__init__(f"version: the metric {key!r} has the versions 1 to {latest}, not {version}.")


class MetricKeyTaken(KeyTaken):
    slug = "metric-key-taken"
    title = "A metric with this key exists"
    noun = "a metric"
    way_out = ", or change that one, which may be archived"


class MetricArchived(Conflict):
    slug = "metric-archived"
    title = "The metric is archived"

    def __init__(self, key: str) -> None:
        super().__init__(f'The metric {key!r} is archived and cannot change; send "archived": false to restore it.')
