"""From the rows that either store answers with to observations. Both name their columns alike.

| kind  | one row for each                  | columns besides `kind` and `variant_id`                              |
|-------|-----------------------------------|----------------------------------------------------------------------|
| entry | variant and bucket of exposures   | bucket_us, users, planned                                            |
| arm   | variant with counted events       | users, events, valued, valued_squares, total, total_squares,         |
|       |                                   | products, exponent                                                   |
| slot  | variant, event type and bucket    | bucket_us, event_type, users, events                                 |
| p95   | order statistic of a variant      | position (0 or 1), valued (values in all), value                     |

Totals are whole numbers: values times 2 to the power of `exponent`, rounded half to even.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Any

from app.results.values import ArmObservations, Entries, Neighbours, Observations, Slot, ValueSums

# Numerator and denominator of the percentile's rank among n values sorted from 0: 0.95 (n - 1).
P95 = (19, 20)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# One bucket for all moments, where they do not matter.
FOREVER = timedelta(days=150_000)

Row = Mapping[str, Any]


class Kind(StrEnum):
    """What a row of an answer tells about."""

    ENTRY = "entry"
    ARM = "arm"
    SLOT = "slot"
    P95 = "p95"


def observations_of(rows: Iterable[Row], *, with_series: bool) -> Observations:
    """Sort the rows of one answer by variant."""
    by_variant: dict[int, dict[Kind, list[Row]]] = defaultdict(lambda: {kind: [] for kind in Kind})
    for row in rows:
        by_variant[row["variant_id"]][Kind(row["kind"])].append(row)
    return Observations({variant_id: _arm(found, with_series=with_series) for variant_id, found in by_variant.items()})


def _arm(rows: Mapping[Kind, list[Row]], *, with_series: bool) -> ArmObservations:
    # One row, or none where the variant has no counted event.
    counted: Row | None = next(iter(rows[Kind.ARM]), None)
    entries = sorted((_time(row), int(row["users"])) for row in rows[Kind.ENTRY])
    slots = [Slot(_time(row), row["event_type"], int(row["events"]), int(row["users"])) for row in rows[Kind.SLOT]]
    return ArmObservations(
        exposed=sum(users for _, users in entries),
        exposed_by_plan=sum(int(row["planned"]) for row in rows[Kind.ENTRY]),
        converters=0 if counted is None else int(counted["users"]),
        events=0 if counted is None else int(counted["events"]),
        sums=ValueSums() if counted is None else _sums(counted),
        p95=_neighbours(rows[Kind.P95]),
        slots=tuple(sorted(slots, key=lambda slot: (slot.event_type, slot.time))),
        entries=tuple(Entries(time, users) for time, users in entries) if with_series else (),
    )


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
