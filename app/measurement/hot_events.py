"""Where PostgreSQL's statements take events from: those of a question, joined once with who is exposed."""

from collections.abc import Mapping
from typing import Any

from app.events.messages import MOST_AHEAD
from app.measurement import hot_filters
from app.measurement.plan import US, Measure, Plan, Side, Stretch, Track, bounds_us, days_of
from app.measurement.values import Asked, Exposed
from app.metrics.values import ValueSource

# The conditions on ingestion times follow from those on the events' own, and spare partitions that are too old.
_HAPPENED = """, happened AS MATERIALIZED (
    SELECT exposed.variant_id, exposed.unit,
        CAST(extract(epoch FROM exposed.exposed_at) * 1000000 AS bigint) AS since_us,
        CAST(extract(epoch FROM happened.ts) * 1000000 AS bigint) AS us{columns}
    FROM events AS happened JOIN exposed ON happened.user_id = exposed.user_id
    WHERE happened.project_id = CAST(:project_id AS bigint)
      AND happened.ts >= exposed.exposed_at - CAST(:look_back AS interval)
      AND happened.ingested_at >= (SELECT min(exposed_at) FROM exposed) - CAST(:look_back AS interval)
          - CAST(:most_ahead AS interval)
      AND (happened.experiment_id IS NULL OR happened.experiment_id = CAST(:experiment_id AS bigint))
      AND (CAST(:until AS timestamptz) IS NULL OR happened.ts < CAST(:until AS timestamptz))
      AND (CAST(:event_types AS text[]) IS NULL OR happened.event_type = ANY (CAST(:event_types AS text[]))){of_arms}
)"""
_OF_ARMS = "exposed.variant_id = ANY (CAST(:{arms} AS bigint[]))"


class HotEvents:
    """The events of a question, as all metrics of a statement read them, and what the statement is bound to."""

    def __init__(self, plan: Plan, asked: Asked, exposed: Exposed) -> None:
        self.plan = plan
        self._asked = asked
        self._exposed = exposed
        self._tracks = plan.tracks
        self._bound: dict[str, Any] = {}

    def bind(self, name: str, value: object) -> str:
        """Bind a parameter and return its name."""
        self._bound[name] = value
        return name

    def of_arms(self, before: str) -> str:
        """Return the condition that a user is in an arm that is looked at, behind `before`; '' where all are."""
        if not self.plan.arms:
            return ""
        return before + _OF_ARMS.format(arms=self.bind("measured_arms", list(self.plan.arms)))

    def parameters(self) -> Mapping[str, Any]:
        first_day, days = days_of(self._asked)
        start_us, end_us = bounds_us(self._asked)
        own = {
            "project_id": self._asked.project_id,
            "experiment_id": self._asked.experiment_id,
            "look_back": self.plan.look_back_us * US,
            "most_ahead": MOST_AHEAD,
            "until": self._asked.end,
            "event_types": list(self.plan.event_types) or None,
            "first_day": first_day,
            "days": days,
            "start_us": start_us,
            "end_us": end_us,
        }
        return {**self._exposed.parameters, **own, **self._bound}

    def happened(self) -> str:
        """Return the part of a statement that has an event in each row, with what each track makes of it."""
        columns = (f",\n        {self._column(index, track)}" for index, track in enumerate(self._tracks))
        return _HAPPENED.format(columns="".join(columns), of_arms=self.of_arms("\n      AND "))

    def _column(self, index: int, track: Track) -> str:
        conditions = []
        if track.event_types:
            types = self.bind(f"types_{index}", list(track.event_types))
            conditions.append(f"happened.event_type = ANY (CAST(:{types} AS text[]))")
        for place, wanted in enumerate(track.filters):
            condition, parameters = hot_filters.condition(wanted, f"filter_{index}_{place}")
            conditions.append(condition)
            self._bound |= parameters
        keeps = " AND ".join(conditions) or "true"
        if not track.has_numbers:
            return f"({keeps}) AS keeps_{index}"
        number = "happened.value"
        if track.source is ValueSource.PROPERTY:
            number = hot_filters.number_of(self.bind(f"number_{index}", track.property_name))
        return f"CASE WHEN {keeps} THEN {number} END AS number_{index}"

    def number(self, side: Side) -> str:
        """Return the column with the number that an event has for a side; NULL where it has none."""
        return f"number_{self._tracks.index(side.track)}"

    def keeps(self, track: Track) -> str:
        """Return the condition that an event is one of the track's."""
        index = self._tracks.index(track)
        return f"number_{index} IS NOT NULL" if track.has_numbers else f"keeps_{index}"

    def inside(self, measure: Measure, stretch: Stretch) -> str:
        """Return the condition that an event is within one of the metric's two stretches of time."""
        kind = "post" if stretch is measure.stretch else "pre"
        from_us = self.bind(f"{kind}{measure.index}_from", stretch.from_us)
        until_us = self.bind(f"{kind}{measure.index}_until", stretch.until_us)
        inside = f"us >= since_us + CAST(:{from_us} AS bigint) AND us < since_us + CAST(:{until_us} AS bigint)"
        if stretch.in_question:
            inside += " AND us >= CAST(:start_us AS bigint) AND us < CAST(:end_us AS bigint)"
        return inside
