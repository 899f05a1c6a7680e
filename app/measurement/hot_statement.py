"""The statement by which PostgreSQL measures: one pass over the events for all metrics.

Events are joined with who is exposed once (see `hot_events`); every metric then reads from that. What counts is defined
in both and, in the same words, in `cold_statement`; a property test holds the two equal.

The answer's rows have a `kind`, the metric's index, a variant, a position, up to seven whole numbers `n1` to `n7`, and
a `value`; `read_hot` says what they mean.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterator, Mapping
from typing import Any

from app.measurement.hot_events import HotEvents
from app.measurement.hot_values import ranked
from app.measurement.plan import DAY_US, PIECE_BITS, Cap, Measure, Plan, Shape
from app.measurement.values import Asked, Exposed

# The day's number within the series; what lies outside it counts in its first or last day.
_DAY = (
    "CAST(least(greatest({us} / CAST(" + str(DAY_US) + " AS bigint) - CAST(:first_day AS bigint), 0),"
    " CAST(:days AS bigint) - 1) AS bigint)"
)
# The exponent field of a double is read from its bytes: no logarithm rounds as reliably. Two factors, because one
# power of two may be beyond a double's range where their product applied one by one is not. What is below `least`
# rounds to 0; it is not multiplied, because PostgreSQL makes an error of a product too small for a double.
_FACTORS = """, factors_{name} AS MATERIALIZED (
    SELECT exponent, power(2::float8, (exponent / 2)::float8) AS first,
        power(2::float8, (exponent - exponent / 2)::float8) AS second,
        CASE WHEN exponent < 0 THEN peak / 2::float8 ^ {least_bits} ELSE 0 END AS least
    FROM (
        SELECT peak, 1084 - (((get_byte(bytes, 0) & 127) << 4) | (get_byte(bytes, 1) >> 4)) AS exponent
        FROM (SELECT {name} AS peak, float8send({name}) AS bytes FROM peaks) AS as_bytes
    ) AS scale
)"""
# A cast from double to whole number rounds half to even.
_IN_UNITS = (
    "CASE WHEN abs({number}) >= (SELECT least FROM factors_{name}) THEN CAST({number}"
    " * (SELECT first FROM factors_{name}) * (SELECT second FROM factors_{name}) AS bigint) ELSE 0 END"
)
# In finer units, what the number has left below those of the pieces before, in units of the next piece. The difference
# of a double and its nearest whole number is exact.
_IN_FINER_UNITS = (
    "CASE WHEN abs({number}) >= (SELECT least FROM factors_{name}) THEN (SELECT {whole}"
    " FROM (SELECT {number} * first * second AS left_0 FROM factors_{name}) AS piece_0{pieces}) ELSE 0 END"
)
_LEFT = (
    " CROSS JOIN LATERAL (SELECT (left_{before} - round(left_{before})) * 2::float8 ^ "
    + str(PIECE_BITS)
    + " AS left_{place}) AS piece_{place}"
)
_PIECE = "CAST(CAST(round(left_{place}) AS bigint) AS numeric)"
_CAP_IN_UNITS = (
    "(SELECT CASE WHEN shift > {most} THEN NULL WHEN shift >= 0 THEN CAST({mantissa} AS numeric) * {power}"
    " ELSE CAST({mantissa} AS bigint) >> least(-shift, 60) END"
    " FROM (SELECT exponent + {exponent} AS shift FROM factors_{name}) AS shifted)"
)
# The smallest total that at least this share of all users' totals does not exceed, and not below 0.
_CUT = """(
        SELECT greatest(total, 0) FROM (
            SELECT coalesce(totals.total, 0) AS total, row_number() OVER (ORDER BY coalesce(totals.total, 0)) AS place,
                count(*) OVER () AS users
            FROM exposed LEFT JOIN (
                SELECT unit, sum({side}) AS total FROM {rows} GROUP BY unit
            ) AS totals ON totals.unit = exposed.unit{of_arms}
        ) AS ranked
        WHERE place = greatest(div(CAST({over} AS numeric) * users + CAST({under} AS numeric) - 1,
            CAST({under} AS numeric)), 1)
    )"""
_ENTRIES = """
SELECT 'entry' AS kind, 0 AS metric, variant_id, {day} AS position, CAST(count(*) AS numeric) AS n1,
    CAST(NULL AS numeric) AS n2, CAST(NULL AS numeric) AS n3, CAST(NULL AS numeric) AS n4, CAST(NULL AS numeric) AS n5,
    CAST(NULL AS numeric) AS n6, CAST(NULL AS numeric) AS n7, CAST(NULL AS float8) AS value
FROM exposed{of_arms} GROUP BY 3, 4"""
_EXPOSED_US = "CAST(extract(epoch FROM exposed.exposed_at) * 1000000 AS bigint)"


def measuring(plan: Plan, asked: Asked, exposed: Exposed) -> tuple[str, Mapping[str, Any]]:
    """Return the statement that answers for all metrics."""
    events = HotEvents(plan, asked, exposed)
    ctes = [events.happened(), *_peaks(events)]
    answers = [_ENTRIES.format(day=_DAY.format(us=_EXPOSED_US), of_arms=events.of_arms(" WHERE "))]
    for measure in plan.measures:
        parts = _quantile(events, measure) if measure.shape is Shape.VALUES else _sums(events, measure)
        for part in parts:
            (ctes if part.startswith(",") else answers).append(part)
    answers += _exponents(plan)
    sql = exposed.sql + "".join(ctes) + "\nUNION ALL".join(answers)
    return sql, events.parameters()


def _peaks(events: HotEvents) -> Iterator[str]:
    """Find the largest value that each metric counts, and from it the unit."""
    scaled = [(measure, side) for measure in events.plan.measures for side in measure.scaled]
    if not scaled:
        return
    found = []
    for measure, side in scaled:
        number = events.number(measure.denominator if side == "y" and measure.denominator else measure.numerator)
        stretch = measure.covariate if side == "z" and measure.covariate else measure.stretch
        inside = events.inside(measure, stretch)
        found.append(f"max(abs({number})) FILTER (WHERE {inside}) AS {side}{measure.index}")
    yield f", peaks AS MATERIALIZED (\n    SELECT {', '.join(found)} FROM happened\n)"
    for measure, side in scaled:
        yield _FACTORS.format(name=f"{side}{measure.index}", least_bits=64 + measure.finer_by(side))


def _exponents(plan: Plan) -> Iterator[str]:
    for measure in plan.measures:
        for side in measure.scaled:
            finer = measure.finer_by(side)
            exponent = f"exponent + {finer}" if finer else "exponent"
            yield (
                f"\nSELECT 'exponent', {measure.index}, 0, {'xyz'.index(side)}, {exponent}, NULL, NULL, NULL, NULL,"
                f" NULL, NULL, NULL FROM factors_{side}{measure.index} WHERE exponent IS NOT NULL"
            )


def _units(events: HotEvents, measure: Measure, side: str) -> str:
    """Return what one event adds to a side, in units."""
    amount = measure.denominator if side == "y" and measure.denominator is not None else measure.numerator
    keeps = events.keeps(amount.track)
    if not amount.by_number:
        return f"CASE WHEN {keeps} THEN {1 if side == 'y' else measure.one} ELSE 0 END"
    in_units = _whole(events.number(amount), f"{side}{measure.index}", measure.finer_by(side))
    return f"CASE WHEN {keeps} THEN {in_units} ELSE 0 END"


def _whole(number: str, name: str, finer: int) -> str:
    """Return a number in whole units; finer ones are put together from pieces."""
    if not finer:
        return _IN_UNITS.format(number=number, name=name)
    places = range(1, finer // PIECE_BITS + 1)
    whole = _PIECE.format(place=0)
    for place in places:
        whole = f"({whole}) * {2**PIECE_BITS} + {_PIECE.format(place=place)}"
    pieces = "".join(_LEFT.format(before=place - 1, place=place) for place in places)
    return _IN_FINER_UNITS.format(number=number, name=name, whole=whole, pieces=pieces)


def _sums(events: HotEvents, measure: Measure) -> Iterator[str]:
    i = measure.index
    yield from _CELLS[measure.shape](events, measure)
    if measure.covariate is not None:
        inside = f"{events.inside(measure, measure.covariate)} AND {events.keeps(measure.numerator.track)}"
        amount = f"sum({_units(events, measure, 'z')})" if measure.shape is Shape.AMOUNTS else str(measure.one)
        yield f""", before_{i} AS MATERIALIZED (
    SELECT unit, CAST({amount} AS numeric) AS z FROM happened WHERE {inside} GROUP BY unit
)"""
    yield from _limits(events, measure)
    yield _totals(measure)
    yield _days_answer(measure)
    if measure.covariate is not None:
        yield _covariates_answer(measure)


def _amounts(events: HotEvents, measure: Measure) -> Iterator[str]:
    x_keeps = events.keeps(measure.numerator.track)
    keeps, y = x_keeps, "0"
    if measure.denominator is not None:
        keeps, y = f"({x_keeps} OR {events.keeps(measure.denominator.track)})", _units(events, measure, "y")
    yield f""", cells_{measure.index} AS MATERIALIZED (
    SELECT variant_id, unit, {_DAY.format(us="us")} AS day, CAST(sum({_units(events, measure, "x")}) AS numeric) AS x,
        CAST(sum({y}) AS numeric) AS y, count(*) FILTER (WHERE {x_keeps}) AS events
    FROM happened WHERE {events.inside(measure, measure.stretch)} AND {keeps} GROUP BY 1, 2, 3
)"""
    yield _events_answer(measure, f"sum(events) FROM cells_{measure.index}")


def _first(events: HotEvents, measure: Measure) -> Iterator[str]:
    delay = measure.shape is Shape.DELAY
    x, y = ("min(us - since_us)", "1") if delay else (str(measure.one), "0")
    inside = f"{events.inside(measure, measure.stretch)} AND {events.keeps(measure.numerator.track)}"
    yield f""", cells_{measure.index} AS MATERIALIZED (
    SELECT variant_id, unit, {_DAY.format(us="min(us)")} AS day, CAST({x} AS numeric) AS x, CAST({y} AS numeric) AS y,
        count(*) AS events
    FROM happened WHERE {inside} GROUP BY variant_id, unit
)"""
    yield _events_answer(measure, f"sum(events) FROM cells_{measure.index}")


def _chain(events: HotEvents, measure: Measure) -> Iterator[str]:
    """Take each step as early as may be after the one before."""
    i, inside = measure.index, events.inside(measure, measure.stretch)
    for step, track in enumerate(measure.tracks):
        after = "" if step == 0 else f" JOIN step_{i}_{step - 1} AS before ON before.unit = happened.unit"
        later = "" if step == 0 else " AND us >= before.done_us"
        yield f""", step_{i}_{step} AS MATERIALIZED (
    SELECT happened.variant_id, happened.unit, min(us) AS done_us FROM happened{after}
    WHERE {inside} AND {events.keeps(track)}{later} GROUP BY happened.variant_id, happened.unit
)"""
        yield f"""
SELECT 'step', {i}, variant_id, {step}, count(*), NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM step_{i}_{step}
GROUP BY variant_id"""
    yield f""", cells_{i} AS MATERIALIZED (
    SELECT variant_id, unit, {_DAY.format(us="done_us")} AS day, CAST({measure.one} AS numeric) AS x,
        CAST(0 AS numeric) AS y
    FROM step_{i}_{len(measure.tracks) - 1}
)"""
    # An event that fits two steps is an event of each.
    counts = " + ".join(f"count(*) FILTER (WHERE {events.keeps(track)})" for track in measure.tracks)
    yield _events_answer(measure, f"{counts} FROM happened WHERE {inside}")


_CELLS = {Shape.AMOUNTS: _amounts, Shape.FIRST: _first, Shape.DELAY: _first, Shape.CHAIN: _chain}


def _events_answer(measure: Measure, counted: str) -> str:
    count, _, rows = counted.partition(" FROM ")
    return f"""
SELECT 'events', {measure.index}, variant_id, 0, {count}, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM {rows}
GROUP BY variant_id"""


def _limits(events: HotEvents, measure: Measure) -> Iterator[str]:
    """Say between what a user's numerator and covariate are kept; NULL does not limit."""
    rows = {"x": f"cells_{measure.index}", "z": f"before_{measure.index}"}
    for side in measure.limited if measure.is_limited else ():
        cut, cap = "NULL", "NULL"
        if measure.winsorize is not None:
            over, under = measure.winsorize
            cut = _CUT.format(side=side, rows=rows[side], over=over, under=under, of_arms=events.of_arms(" WHERE "))
        if isinstance(measure.cap, Cap):
            cap = _cap_in_units(measure.cap, f"{side}{measure.index}", measure.finer_by(side))
        elif measure.cap is not None:
            cap = str(measure.cap)
        yield f""", limits_{side}{measure.index} AS MATERIALIZED (
    SELECT CAST({cut} AS numeric) AS cut, CAST({cap} AS numeric) AS cap
)"""


def _cap_in_units(cap: Cap, name: str, finer: int) -> str:
    power = "(1::bigint << shift)"
    if finer:
        # As many bits as a whole number has room for at a time.
        shifts = (f"least(greatest(shift - {shifted}, 0), 60)" for shifted in range(0, finer + 60, 60))
        power = " * ".join(f"(1::bigint << {shift})" for shift in shifts)
    return _CAP_IN_UNITS.format(
        mantissa=cap.mantissa, exponent=cap.exponent + finer, name=name, most=60 + finer, power=power
    )


def _limited(measure: Measure, side: str, total: str) -> str:
    if not measure.is_limited:
        return total
    limits = f"limits_{side}{measure.index}"
    return f"greatest(least({total}, (SELECT least(cut, cap) FROM {limits})), (SELECT -cap FROM {limits}))"


def _totals(measure: Measure) -> str:
    """Return users' totals after each day, and how much everything has grown on it."""
    i, z, joined = measure.index, "CAST(0 AS numeric)", ""
    if measure.covariate is not None:
        z = _limited(measure, "z", f"coalesce(before_{i}.z, 0)")
        joined = f" LEFT JOIN before_{i} ON before_{i}.unit = cells_{i}.unit"
    return f""", totals_{i} AS (
    SELECT variant_id, unit, day, {_limited(measure, "x", "x")} AS x, y, z FROM (
        SELECT cells_{i}.variant_id, cells_{i}.unit, cells_{i}.day, sum(cells_{i}.x) OVER by_day AS x,
            sum(cells_{i}.y) OVER by_day AS y, {z} AS z
        FROM cells_{i}{joined} WINDOW by_day AS (PARTITION BY cells_{i}.unit ORDER BY cells_{i}.day)
    ) AS accumulated
)"""


def _days_answer(measure: Measure) -> str:
    return f"""
SELECT 'day', {measure.index}, variant_id, day, sum(CAST(x <> 0 AS int) - CAST(old_x <> 0 AS int)), sum(x - old_x),
    sum(x * x - old_x * old_x), sum(y - old_y), sum(y * y - old_y * old_y), sum(x * y - old_x * old_y),
    sum((x - old_x) * z), NULL
FROM (
    SELECT variant_id, day, x, y, z, lag(x, 1, CAST(0 AS numeric)) OVER by_day AS old_x,
        lag(y, 1, CAST(0 AS numeric)) OVER by_day AS old_y
    FROM totals_{measure.index} WINDOW by_day AS (PARTITION BY unit ORDER BY day)
) AS grown GROUP BY variant_id, day"""


def _covariates_answer(measure: Measure) -> str:
    i = measure.index
    return f"""
SELECT 'covariate', {i}, variant_id, day, sum(z), sum(z * z), NULL, NULL, NULL, NULL, NULL, NULL
FROM (
    SELECT exposed.variant_id, {_DAY.format(us=_EXPOSED_US)} AS day, {_limited(measure, "z", f"before_{i}.z")} AS z
    FROM exposed JOIN before_{i} ON before_{i}.unit = exposed.unit
) AS known GROUP BY variant_id, day"""


def _quantile(events: HotEvents, measure: Measure) -> Iterator[str]:
    """Find the two values around the quantile, and count by user what is not above the lower one."""
    i, level = measure.index, measure.quantile
    if level is None:
        return
    yield ranked(events, measure)
    rank = (
        f"CAST(div(CAST({level.numerator} AS numeric) * (number_of_values - 1), CAST({level.denominator} AS numeric))"
        " AS bigint)"
    )
    yield f""", low_{i} AS MATERIALIZED (
    SELECT variant_id, value FROM ranked_{i} WHERE place = {rank} + 1
), clusters_{i} AS MATERIALIZED (
    SELECT ranked_{i}.variant_id, ranked_{i}.unit, count(*) AS number_of_values,
        count(*) FILTER (WHERE ranked_{i}.value <= low_{i}.value) AS below
    FROM ranked_{i} JOIN low_{i} ON low_{i}.variant_id = ranked_{i}.variant_id GROUP BY 1, 2
)"""
    yield f"""
SELECT 'neighbour', {i}, variant_id, place - 1 - {rank}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, value
FROM ranked_{i} WHERE place - 1 IN ({rank}, {rank} + 1)"""
    yield f"""
SELECT 'clusters', {i}, variant_id, 0, count(*), sum(number_of_values), sum(below), sum(below * below),
    sum(number_of_values * number_of_values), sum(below * number_of_values), NULL, NULL
FROM clusters_{i} GROUP BY variant_id"""
