"""The use case of explaining a number: the SQL that results would run, ready to paste."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.core.clickhouse import ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database, StoreUnavailable
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.explain import notes
from app.explain.statements import Numbers, in_clickhouse, in_postgres
from app.explain.values import Asking, Explanation, Statement
from app.metrics.repository import MetricRepository
from app.metrics.values import StoredMetric
from app.results.chosen import chosen, names_of, to_look_up
from app.results.values import Granularity, Question, SourceChoice, Subject

Watermark = Callable[[], Awaitable[datetime | None]]


@dataclass(frozen=True, slots=True)
class _Written:
    postgresql: Statement | None
    clickhouse: Statement | None
    notes: tuple[str, ...]


class ExplainService:
    """Writes out statements. Built once at startup."""

    def __init__(self, *, database: Database, registry: ExperimentRegistry, watermark: Watermark) -> None:
        self._database = database
        self._registry = registry
        self._watermark = watermark

    async def explain(self, project_id: int, reference: str, asking: Asking) -> Explanation:
        """Return the SQL of a question, for each store on its own.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid: a metric is unknown.
            StoreUnavailable: PostgreSQL, which knows the stored metrics, cannot be reached.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        names = names_of(experiment, asking.metrics)
        found = await self._stored(project_id, to_look_up(experiment, names))
        picked = chosen(experiment, names, found, asking.metrics)
        numbers = Numbers(
            built_in=tuple(one.built_in for one in picked if one.built_in is not None),
            stored={one.key: one.stored.recipe for one in picked if one.stored is not None},
        )
        watermark = None if asking.source is SourceChoice.HOT else await self._known_watermark()
        written = _written(experiment, _question(asking, numbers), numbers, watermark, asking.source)
        return Explanation(names, written.postgresql, written.clickhouse, written.notes)

    async def _known_watermark(self) -> datetime | None:
        try:
            return await self._watermark()
        except (ClickHouseUnavailable, ClickHouseRefused, StoreUnavailable):
            return None

    async def _stored(self, project_id: int, keys: tuple[str, ...]) -> Mapping[str, StoredMetric]:
        if not keys:
            return {}
        async with self._database.read() as connection:
            return await MetricRepository(connection).latest_by_key(project_id, keys)


def _question(asking: Asking, numbers: Numbers) -> Question:
    return Question(
        event_types=asking.event_types,
        start=asking.start,
        end=asking.end,
        granularity=Granularity(asking.granularity),
        metrics=tuple(metric.value for metric in numbers.built_in),
        include_overrides=asking.include_overrides,
        context=asking.context,
    )


def _written(
    experiment: Experiment, question: Question, numbers: Numbers, watermark: datetime | None, source: SourceChoice
) -> _Written:
    subject = Subject.of(experiment)
    hot = None if source is SourceChoice.COLD else in_postgres(subject, question, numbers)
    cold = None if watermark is None else in_clickhouse(subject, question, numbers, watermark)
    said = []
    if watermark is not None and cold is not None:
        said += notes.on_history(watermark, cold.sql)
    elif source is not SourceChoice.HOT:
        said.append(notes.NO_WATERMARK)
    if numbers.built_in:
        said += notes.on_built_in(question)
    if numbers.stored:
        said += notes.on_stored(numbers.stored, with_event_types=bool(question.event_types))
    return _Written(hot, cold, tuple(said))
