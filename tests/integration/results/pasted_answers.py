"""An answer put together of nothing but the rows that its explained SQL gives where somebody pastes it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.experiments.values import Experiment
from app.explain.values import Part, Statement
from app.measurement.answers import measured, with_bounds
from app.measurement.plan import Plan, compiled
from app.measurement.reading import read_cold, read_hot
from app.measurement.values import Asked, Days, Measured
from app.results.analysis import analyse
from app.results.answer import Results
from app.results.chosen import Chosen
from app.results.measuring import asked_of, days_of, metrics_of, observed_question, wanted_of
from app.results.observed import observations_of, segments_of, with_measured, with_segments
from app.results.provenance import Provenance
from app.results.reading import PLAIN
from app.results.values import Observations, Question, Subject, Wanted
from app.stats.quantiles import quantile_ranks
from tests.psql import pasted

Row = Mapping[str, Any]
# Pastes one text, and gives its rows with their types.
Paste = Callable[[str], Awaitable[Sequence[Row]]]
_TEXTS = {"kind", "label"}
_DOUBLES = {"value", "lower", "upper"}
_FLAGS = {"lacks"}


async def from_psql(url: str, sql: str) -> Sequence[Row]:
    """Paste a text into psql, and give the texts of its CSV their types."""
    return [{name: _typed(name, text) for name, text in row.items()} for row in pasted(url, sql)]


def _typed(name: str, text: str) -> object:
    if name in _TEXTS:
        return text
    if not text:
        return None
    if name in _FLAGS:
        return text == "t"
    return float(text) if name in _DOUBLES else int(text)


@dataclass(frozen=True)
class Pasted:
    """The rows of one store's queries: of each by what it is, and of those that measure also by the metrics."""

    rows: Mapping[tuple[Part, bool], Sequence[Row]]
    measured: Sequence[tuple[bool, Sequence[str], Sequence[Row]]]
    is_hot: bool

    def of(self, part: Part, *, by_segment: bool = False) -> Sequence[Row]:
        return self.rows.get((part, by_segment), ())

    def seen_by(self, plan: Plan, asked: Asked, *, by_segment: bool) -> Measured:
        """Return what all queries say of the plan's metrics; of the same metric and arm the later one counts."""
        seen = Measured({measure.key: {} for measure in plan.measures})
        for of_segments, metrics, rows in self.measured:
            if of_segments == by_segment:
                some = plan.only(measure.index for measure in plan.measures if measure.key in metrics)
                tallies = read_hot(some, rows) if self.is_hot else read_cold(some, rows)
                seen = seen.with_later(measured(some, asked, tallies))
        return seen

    def bounds(self, *, by_segment: bool) -> Mapping[tuple[int, int], tuple[float, float]]:
        """Return the bounds of quantiles by the metric's number and the variant or cell."""
        found = {}
        for row in self.of(Part.BOUNDS, by_segment=by_segment):
            if self.is_hot:
                found[row["metric"], row["variant_id"]] = row["lower"], row["upper"]
                continue
            for name in row:
                if name.endswith("_lower"):
                    number = name.removeprefix("q").removesuffix("_lower")
                    found[int(number), row["variant_id"]] = row[name], row[f"q{number}_upper"]
        return found


async def paste(statement: Statement, one: Paste, *, is_hot: bool) -> Pasted:
    """Paste every query by itself."""
    rows: dict[tuple[Part, bool], Sequence[Row]] = {}
    several: list[tuple[bool, Sequence[str], Sequence[Row]]] = []
    for query in statement.queries:
        found = await one(query.sql)
        if query.part is Part.MEASURED:
            several.append((query.by_segment, query.metrics, found))
        else:
            rows[query.part, query.by_segment] = found
    return Pasted(rows, several, is_hot)


def answer_of(
    experiment: Experiment, question: Question, chosen: Sequence[Chosen], found: Pasted, results: Results, now: datetime
) -> Results:
    """Compose the answer of these rows; of `results` are the moments and the source alone.

    now: the moment up to which the store was complete.
    """
    wanted = wanted_of(chosen, question, len(experiment.variants) - 1)
    seen = observations_of(found.of(Part.OBSERVED), with_series=True)
    if wanted.recipes:
        days = days_of(seen, observed_question(question, wanted).undivided, wanted, now)
        seen = with_measured(seen, _measured(experiment, question, wanted, found, days, by_segment=False))
    if question.is_divided:
        rows = found.of(Part.OBSERVED, by_segment=True)
        cells = _measured(experiment, question, wanted, found, None, by_segment=True) if wanted.recipes else None
        seen = with_segments(seen, segments_of(rows, cells))
    metadata = results.metadata
    provenance = Provenance(metadata.source, metadata.complete_until, metadata.computed_at, metadata.rollups)

    def all_metrics(observations: Observations) -> Any:
        return metrics_of(chosen, experiment, question, wanted, observations)

    segments = [all_metrics(segment.observations) for segment in seen.segments]
    return analyse(experiment, question, PLAIN, all_metrics(seen), seen, provenance, segments)


def _measured(
    experiment: Experiment, question: Question, wanted: Wanted, found: Pasted, days: Days | None, *, by_segment: bool
) -> Measured:
    plan = compiled(wanted.recipes)
    seen = found.seen_by(plan, asked_of(Subject.of(experiment), question, days), by_segment=by_segment)
    return with_bounds(seen, _bounds(plan, seen, found.bounds(by_segment=by_segment), question.confidence))


def _bounds(
    plan: Plan, seen: Measured, found: Mapping[tuple[int, int], tuple[float, float]], confidence: float
) -> Mapping[tuple[str, int], tuple[float | None, float | None]]:
    """Leave out what stands for an end beyond the values."""
    keys = {measure.index: (measure.key, measure.quantile) for measure in plan.measures}
    bounds = {}
    for (index, variant_id), (lower, upper) in found.items():
        key, level = keys[index]
        quantile = seen.metrics[key][variant_id].quantile
        assert quantile is not None
        assert level is not None
        counts = quantile.counts
        ranks = quantile_ranks(
            level,
            users=counts.users,
            values=counts.values,
            below=counts.below,
            below_squares=counts.below_squares,
            value_squares=counts.value_squares,
            products=counts.products,
            confidence=confidence,
        )
        own = None if ranks.lower is None else lower, None if ranks.upper is None else upper
        bounds[key, variant_id] = own
    return bounds
