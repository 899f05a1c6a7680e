"""Where ClickHouse's statements take events from: the history and PostgreSQL's tail, joined with who is exposed.

Rows are read as they are stored, copies of redelivered ones among them. Reading without copies (`FINAL`) merges all
parts by the whole sorting key, which costs as much again as all else; gathered by user, an event is known by its key.
"""

from collections.abc import Mapping
from typing import Any

from app.events.messages import MOST_AHEAD
from app.measurement import cold_filters
from app.measurement.plan import DAY_US, FOREVER_US, US, Plan, Stretch, Track, bounds_us, days_of
from app.measurement.tail import EVENTS as TAIL_EVENTS
from app.measurement.values import Asked, Exposed
from app.metrics.values import ValueSource

# The conditions on ingestion times follow from those on the events' own, and spare partitions that are too old.
_IN_HISTORY = """
            WHERE project_id = {project_id:Int64}
              AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})
              AND ingested_at < {watermark:DateTime64(6, 'UTC')}
              AND ingested_at >= (SELECT min(exposed_at) FROM exposed)
                  - toIntervalMicrosecond({most_ahead_us:Int64} + {look_back_us:Int64})"""
_TAIL = f"""
            FROM {TAIL_EVENTS} WHERE true"""
_OF_TYPES = """
              AND event_type IN ({{{name}:Array(String)}})"""
_UNTIL = """
              AND ts < {until:DateTime64(6, 'UTC')}"""
_SINCE = """
              AND ts >= {since:DateTime64(6, 'UTC')}"""
_VALUED = """
              AND value IS NOT NULL"""
# Users get a number, because grouping by numbers is far cheaper than grouping by text.
_PEOPLE = (
    "SELECT user_id, variant_id, toUnixTimestamp64Micro(exposed_at) AS exposed_us,"
    " toUInt32(row_number() OVER ()) AS unit FROM exposed"
)
_OF_ARMS = " WHERE variant_id IN ({{{arms}:Array(Int64)}})"
# The day's number within the series; what lies outside it counts in its first or last day.
_DAY = f"toUInt16(least(greatest(intDiv({{us}}, {DAY_US}) - {{{{first_day:Int64}}}}, 0), {{{{days:Int64}}}} - 1))"
# Bits of a key: 10 for the track, 54 for the event's offset from the earliest moment that may matter, which are enough
# for all of ClickHouse's time, and 64 of the id's hash. Copies have the same key; two events would have if they were of
# one user and one microsecond, and their ids agreed in 64 bits by chance.
_OFFSET_BITS = 54
_ID_BITS = 64


class ColdEvents:
    """The events of a question: which lists of them there are, where they lie, and what the statement is bound to."""

    def __init__(self, plan: Plan, asked: Asked, exposed: Exposed, *, with_tail: bool) -> None:
        self._plan = plan
        self._asked = asked
        self._exposed = exposed
        self._places = {found: place for place, found in enumerate(plan.lists)}
        self.with_tail = with_tail
        self.first_day, self.days = days_of(asked)
        self.in_order = asked.days is not None
        self.until = asked.end is not None
        # Covariates are from before the question's time.
        self.has_start = asked.start is not None
        self.since = self.has_start and not any(measure.covariate for measure in plan.measures)
        self._bound: dict[str, Any] = {}

    @property
    def of_arms(self) -> str:
        """The condition that a user is in an arm that is looked at; '' where all are."""
        if not self._plan.arms:
            return ""
        return _OF_ARMS.format(arms=self.bind("measured_arms", list(self._plan.arms)))

    @property
    def people(self) -> str:
        """The query for who is exposed, in the arms that are looked at."""
        return _PEOPLE + self.of_arms

    def place(self, track: Track, stretch: Stretch) -> int:
        """Return the number of a list of events."""
        return self._places[track, stretch]

    def inside(self, track: Track, stretch: Stretch) -> str:
        """Return the condition that a joined event counts for a list; rows from the question's end on are not read."""
        place = self.place(track, stretch)
        since = "happened.moment - people.exposed_us"
        conditions = [f"{since} >= {{{self.bind(f'list{place}_from', stretch.from_us)}:Int64}}"]
        if stretch.until_us < FOREVER_US:
            until_us = self.bind(f"list{place}_until", stretch.until_us)
            conditions.append(f"{since} < {{{until_us}:Int64}}")
        if stretch.in_question and self.has_start:
            conditions.append("happened.moment >= {start_us:Int64}")
        return " AND ".join(conditions)

    def offsets(self, track: Track, stretch: Stretch) -> tuple[str | None, str | None]:
        """Return between which offsets from the earliest moment a list lies; `None`: as far as there are events."""
        place, look_back_us = self.place(track, stretch), self._plan.look_back_us
        begins = ends = None
        if stretch.from_us > -look_back_us:
            begins = f"{{{self.bind(f'list{place}_begins', stretch.from_us + look_back_us)}:Int64}}"
        if stretch.in_question and self.has_start:
            begins = f"greatest({begins or 0}, {{start_us:Int64}} - exposed_us + {{look_back_us:Int64}})"
        if stretch.until_us < FOREVER_US:
            ends = f"{{{self.bind(f'list{place}_ends', stretch.until_us + look_back_us)}:Int64}}"
        return begins, ends

    def bind(self, name: str, value: object) -> str:
        """Bind a parameter and return its name; the same name always has the same value."""
        self._bound[name] = value
        return name

    def parameters(self) -> Mapping[str, Any]:
        start_us, _ = bounds_us(self._asked)
        bound: dict[str, Any] = {
            "project_id": self._asked.project_id,
            "experiment_id": self._asked.experiment_id,
            "most_ahead_us": MOST_AHEAD // US,
            "look_back_us": self._plan.look_back_us,
            "start_us": start_us,
            "first_day": self.first_day,
            "days": self.days,
        }
        if self._asked.start is not None:
            bound["since"] = self._asked.start
        if self._asked.end is not None:
            bound["until"] = self._asked.end
        return {**self._exposed.parameters, **bound, **self._bound}


def day_of(us: str) -> str:
    return _DAY.format(us=us)


def key_of(track: str) -> str:
    """Return the key of a joined event that this track keeps, by its number among those whose keys are together."""
    offset = "happened.moment - people.exposed_us + {look_back_us:Int64}"
    if track != "0":
        offset += f" + toInt64({track}) * {2**_OFFSET_BITS}"
    return f"bitOr(bitShiftLeft(toUInt128({offset}), {_ID_BITS}), toUInt128(id_hash))"


def offset_of(key: str) -> str:
    return f"toInt64(bitAnd(bitShiftRight({key}, {_ID_BITS}), {2**_OFFSET_BITS - 1}))"


def track_bound(track: int) -> str:
    """Return what the keys of earlier tracks are below."""
    return f"bitShiftLeft(toUInt128({track}), {_OFFSET_BITS + _ID_BITS})"


def joined(events: ColdEvents, plan: Plan, name: str) -> str:
    """Return the events that may matter, with the user of each, and copies of redelivered ones (see `key_of`)."""
    types, tracks = plan.event_types, plan.tracks
    of_types = _OF_TYPES.format(name=events.bind(f"types_{name}", list(types))) if types else ""
    condition = of_types + (_UNTIL if events.until else "") + (_SINCE if events.since else "")
    # Copies are alike, so that events without a value may be left out before copies are.
    if all(track.source is ValueSource.VALUE for track in tracks):
        condition += _VALUED
    streams = [_stream(events, tracks, name, f" FROM events{_IN_HISTORY}{condition}")]
    if events.with_tail:
        streams.append(_stream(events, tracks, name, _TAIL + condition))
    return f"""({" UNION ALL ".join(streams)}) AS happened
    INNER JOIN ({events.people}) AS people ON happened.user_id = people.user_id
    WHERE happened.moment >= people.exposed_us - {{look_back_us:Int64}}"""


def _stream(events: ColdEvents, tracks: tuple[Track, ...], name: str, rows: str) -> str:
    columns = ["user_id", "toUnixTimestamp64Micro(ts) AS moment", "cityHash64(event_id) AS id_hash"]
    for index, track in enumerate(tracks):
        keeps = _keeps(events, track, f"{name}{index}")
        if track.has_numbers:
            columns.append(f"{_number(events, track, f'{name}{index}')} AS amount{index}")
            keeps += f" AND amount{index} IS NOT NULL"
        columns.append(f"{keeps} AS keeps{index}")
    if any(track.filters or track.source is ValueSource.PROPERTY for track in tracks):
        rows = f" FROM (SELECT event_id, user_id, event_type, ts, value, {cold_filters.PROPERTIES} AS properties{rows})"
    return f"""
        SELECT {", ".join(columns)}{rows}"""


def _keeps(events: ColdEvents, track: Track, name: str) -> str:
    conditions = []
    if track.event_types:
        parameter = events.bind(f"types_{name}", list(track.event_types))
        conditions.append(f"event_type IN ({{{parameter}:Array(String)}})")
    for place, wanted in enumerate(track.filters):
        condition, parameters = cold_filters.condition(wanted, f"filter_{name}_{place}")
        for parameter, value in parameters.items():
            events.bind(parameter, value)
        conditions.append(condition)
    return f"({' AND '.join(conditions)})" if conditions else "true"


def _number(events: ColdEvents, track: Track, name: str) -> str:
    if track.source is ValueSource.VALUE:
        return "value"
    return cold_filters.number_of(events.bind(f"number_{name}", track.property_name))
