"""What callers can do wrong about metrics."""

from collections.abc import Sequence

from app.core.errors import Conflict, NotFound

# How many experiments a refusal names; a person looks at the first few.
_NAMED = 20


class MetricNotFound(NotFound):
    slug = "metric-not-found"
    title = "No such metric"

    def __init__(self, reference: str) -> None:
        super().__init__(f"No metric has the id or key {reference[:80]!r} in this project.")


class MetricVersionNotFound(NotFound):
    slug = "metric-version-not-found"
    title = "The metric has no such version"

    def __init__(self, key: str, version: int, latest: int) -> None:
        super().__init__(f"version: the metric {key!r} has the versions 1 to {latest}, not {version}.")


class MetricKeyTaken(Conflict):
    slug = "metric-key-taken"
    title = "A metric with this key exists"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"key: a metric with the key {key!r} exists in this project; choose another, or change that one."
        )


class MetricInUse(Conflict):
    slug = "metric-in-use"
    title = "Experiments use the metric"

    def __init__(self, key: str, experiments: Sequence[tuple[int, str]]) -> None:
        named = ", ".join(experiment_key for _, experiment_key in experiments[:_NAMED])
        more = f" and {len(experiments) - _NAMED} more" if len(experiments) > _NAMED else ""
        super().__init__(
            f"The metric {key!r} is used by {named}{more}. Take it out of drafts, and keep it for experiments that were"
            " started: their results need it.",
            experiments=[{"id": id_, "key": experiment_key} for id_, experiment_key in experiments[:_NAMED]],
        )
