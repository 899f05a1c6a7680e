"""From the rows that the stores answer with to what they counted."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from app.measurement.answers import OF_ENTRIES, OF_EVENTS, Tallies, Tally, changes_of
from app.measurement.plan import Measure, Plan, Shape
from app.measurement.values import ClusterCounts, QuantileSeen

Row = Mapping[str, Any]


def read_cold(plan: Plan, rows: Iterable[Row]) -> Tallies:
    """Read one row for each arm.

    Columns: `entries` and, by metric, `m0_x` and the like are arrays with an entry for each day; `m0_events`,
    `m0_reached`, `x0_exponent`, and of quantiles `q0_low` and the like, are of the whole.
    """
    seen = Tallies()
    for row in rows:
        variant_id = int(row["variant_id"])
        seen.entries[variant_id] = dict(changes_of(row["entries"]))
        for measure in plan.measures:
            i, tally = measure.index, seen.tallies[measure.index, variant_id]
            tally.events = int(row.get(f"m{i}_events", 0))
            tally.reached = dict(enumerate(map(int, row.get(f"m{i}_reached", ()))))
            tally.changes = {
                name: changes_of(row[f"m{i}_{name}"]) for name in (*OF_EVENTS, *OF_ENTRIES) if f"m{i}_{name}" in row
            }
            seen.exponents |= {(i, side): int(row[f"{side}{i}_exponent"]) for side in measure.scaled}
            if measure.shape is Shape.VALUES and row[f"q{i}_values"]:
                counts = _counts(row, f"q{i}_")
                tally.quantile = _quantile(measure, row[f"q{i}_low"], row[f"q{i}_high"], counts)
    return seen


def read_hot(plan: Plan, rows: Iterable[Row]) -> Tallies:
    """Read rows of the kinds entry, exponent, events, day, covariate, step, neighbour and clusters."""
    seen = Tallies()
    neighbours: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    counts: dict[tuple[int, int], ClusterCounts] = {}
    for row in rows:
        key, position = (int(row["metric"]), int(row["variant_id"])), int(row["position"])
        match row["kind"]:
            case "entry":
                seen.entries[key[1]][position] = int(row["n1"])
            case "exponent":
                seen.exponents[key[0], "xyz"[position]] = int(row["n1"])
            case "neighbour":
                neighbours[key][position] = row["value"]
            case "clusters":
                names = ("users", "values", "below", "below_squares", "value_squares", "products")
                counts[key] = _counts({name: row[f"n{place}"] for place, name in enumerate(names, start=1)}, "")
            case kind:
                _add(seen.tallies[key], kind, position, row)
    levels = {measure.index: measure for measure in plan.measures}
    for key, found in counts.items():
        low = neighbours[key][0]
        seen.tallies[key].quantile = _quantile(levels[key[0]], low, neighbours[key].get(1, low), found)
    return seen


def _add(tally: Tally, kind: str, position: int, row: Row) -> None:
    match kind:
        case "events":
            tally.events = int(row["n1"])
        case "step":
            tally.reached[position] = int(row["n1"])
        case "day" | "covariate":
            names = OF_EVENTS if kind == "day" else OF_ENTRIES
            for place, name in enumerate(names, start=1):
                if row[f"n{place}"]:
                    tally.changes[name] = {**tally.changes.get(name, {}), position: int(row[f"n{place}"])}
        case _:
            raise AssertionError(kind)


def _counts(row: Row, prefix: str) -> ClusterCounts:
    return ClusterCounts(
        users=int(row[f"{prefix}users"]),
        values=int(row[f"{prefix}values"]),
        below=int(row[f"{prefix}below"]),
        below_squares=int(row[f"{prefix}below_squares"]),
        value_squares=int(row[f"{prefix}value_squares"]),
        products=int(row[f"{prefix}products"]),
    )


def _quantile(measure: Measure, low: float, high: float, counts: ClusterCounts) -> QuantileSeen:
    rank = (measure.quantile or Fraction(0)) * (counts.values - 1)
    # Adding 0 makes a zero of either sign the same one.
    return QuantileSeen(
        low=low + 0.0, high=high + 0.0, fraction=rank - rank.numerator // rank.denominator, counts=counts
    )
