"""From the rows that either store answers with to observations. Both name their columns alike.

| kind     | one row for each                  | columns besides `kind` and `variant_id`                           |
|----------|-----------------------------------|-------------------------------------------------------------------|
| entry    | variant and bucket of exposures   | bucket_us, users, planned                                         |
| arm      | variant with counted events       | users, events, valued, valued_squares, total, total_squares,      |
|          |                                   | products, exponent, late (NULL: not known)                        |
| slot     | variant, event type and bucket    | bucket_us, label (the event type), users, events                  |
| p95      | order statistic of a variant      | position (0 or 1), valued (values in all), value                  |
| excluded | variant and reason                | label (the reason), users                                         |
| assigned | variant, where events expose      | users                                                             |
| segment  | place of a value in a breakdown   | label (the value); `variant_id` is the place                      |
| cohort   | place of a cohort                 | bucket_us (where it begins); `variant_id` is the place            |

Totals are whole numbers: values times 2 to the power of `exponent`, rounded half to even.

Where the users are divided `variant_id` is a cell: `PLACES` times the variant's id plus the place of the value or the
cohort. Places count from 1, of values by users, of cohorts back from the newest one; `MISSING` is the place of those
without a value, `REST` that of all others.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Any

from app.measurement.values import ArmMeasured, Measured
from app.results.values import (
    MOST_SEGMENTS,
    ArmObservations,
    Entries,
    Exclusion,
    Neighbours,
    Observations,
    Segment,
    Slot,
    ValueSums,
)

# Numerator and denominator of the percentile's rank among n values sorted from 0: 0.95 (n - 1).
P95 = (19, 20)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MISSING, REST = 0, MOST_SEGMENTS + 1
PLACES = 64

# One bucket for all moments, where they do not matter.
FOREVER = timedelta(days=150_000)
# Events that are ingested longer than this after their own time are late.
LATE = timedelta(hours=1)

Row = Mapping[str, Any]


class Kind(StrEnum):
    """What a row of an answer tells about."""

    ENTRY = "entry"
    ARM = "arm"
    SLOT = "slot"
    P95 = "p95"
    EXCLUDED = "excluded"
    ASSIGNED = "assigned"
    SEGMENT = "segment"
    COHORT = "cohort"


def observations_of(rows: Iterable[Row], *, with_series: bool) -> Observations:
    """Sort the rows of one answer by variant."""
    by_variant: dict[int, dict[Kind, list[Row]]] = defaultdict(lambda: {kind: [] for kind in Kind})
    for row in rows:
        by_variant[row["variant_id"]][Kind(row["kind"])].append(row)
    return Observations(
        {variant_id: _arm(found, with_series=with_series) for variant_id, found in by_variant.items()},
        late_events=_late([row for found in by_variant.values() for row in found[Kind.ARM]]),
    )


def segments_of(rows: Iterable[Row], measured: Measured | None = None) -> tuple[Segment, ...]:
    """Sort the rows about parts of the users by part, and what recipes measured in its cells."""
    values: dict[int, str] = {}
    beginnings: dict[int, datetime] = {}
    by_place: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row["kind"] == Kind.SEGMENT:
            values[row["variant_id"]] = row["label"]
        elif row["kind"] == Kind.COHORT:
            beginnings[row["variant_id"]] = _time(row)
        else:
            variant_id, place = divmod(row["variant_id"], PLACES)
            by_place[place].append({**row, "variant_id": variant_id})
    cells = _by_place(measured)
    return tuple(
        Segment(
            values.get(place),
            place == REST,
            dataclasses.replace(observations_of(by_place[place], with_series=False), measured=cells.get(place, {})),
            beginnings.get(place),
        )
        for place in sorted(by_place, key=lambda place: place or PLACES)
    )


def _by_place(measured: Measured | None) -> Mapping[int, Mapping[str, Mapping[int, ArmMeasured]]]:
    found: dict[int, dict[str, dict[int, ArmMeasured]]] = defaultdict(lambda: defaultdict(dict))
    for key, cells in () if measured is None else measured.metrics.items():
        for cell, arm in cells.items():
            variant_id, place = divmod(cell, PLACES)
            found[place][key][variant_id] = arm
    return found


def with_measured(whole: Observations, measured: Measured) -> Observations:
    return dataclasses.replace(whole, measured=measured.metrics)


def with_segments(whole: Observations, segments: tuple[Segment, ...]) -> Observations:
    return dataclasses.replace(whole, segments=segments)


def _arm(rows: Mapping[Kind, list[Row]], *, with_series: bool) -> ArmObservations:
    # One row, or none where the variant has no counted event.
    counted: Row | None = next(iter(rows[Kind.ARM]), None)
    entries = sorted((_time(row), int(row["users"])) for row in rows[Kind.ENTRY])
    slots = [Slot(_time(row), row["label"], int(row["events"]), int(row["users"])) for row in rows[Kind.SLOT]]
    planned = sum(int(row["planned"]) for row in rows[Kind.ENTRY])
    return ArmObservations(
        exposed=sum(users for _, users in entries),
        exposed_by_plan=planned,
        # Without a row of their own all who are assigned are exposed.
        assigned_by_plan=sum(int(row["users"]) for row in rows[Kind.ASSIGNED]) or planned,
        excluded={Exclusion(row["label"]): int(row["users"]) for row in rows[Kind.EXCLUDED]},
        converters=0 if counted is None else int(counted["users"]),
        events=0 if counted is None else int(counted["events"]),
        sums=ValueSums() if counted is None else _sums(counted),
        p95=_neighbours(rows[Kind.P95]),
        slots=tuple(sorted(slots, key=lambda slot: (slot.event_type, slot.time))),
        entries=tuple(Entries(time, users) for time, users in entries) if with_series else (),
    )


def _late(arms: Iterable[Row]) -> int | None:
    counts = [row["late"] for row in arms]
    return None if None in counts else sum(map(int, counts))


def _sums(row: Row) -> ValueSums:
    if row["valued"] is None:
        return ValueSums()
    unit = Fraction(2) ** -int(row["exponent"])
    return ValueSums(
        totals=int(row["total"]) * unit,
        total_squares=int(row["total_squares"]) * unit * unit,
        counts=int(row["valued"]),
        count_squares=int(row["valued_squares"]),
        products=int(row["products"]) * unit,
        unit=unit,
    )


def _neighbours(rows: Iterable[Row]) -> Neighbours | None:
    found = {int(row["position"]): row for row in rows}
    if not found:
        return None
    numerator, denominator = P95
    rank = Fraction(numerator * (int(found[0]["valued"]) - 1), denominator)
    # Adding 0 makes a zero of either sign the same one.
    low = found[0]["value"] + 0.0
    return Neighbours(low, found[1]["value"] + 0.0 if 1 in found else low, rank - rank.numerator // rank.denominator)


def _time(row: Row) -> datetime:
    return EPOCH + timedelta(microseconds=int(row["bucket_us"]))
