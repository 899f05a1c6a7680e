"""Observations as tests need them."""

from fractions import Fraction

from app.results.values import ArmObservations, ValueSums


def arm(exposed: int, converters: int = 0, *, values: tuple[float, ...] = ()) -> ArmObservations:
    """Return an arm; each of `values` is the one value of one user."""
    exact = [Fraction(value) for value in values]
    return ArmObservations(
        exposed=exposed,
        exposed_by_plan=exposed,
        converters=converters,
        events=max(converters, len(values)),
        sums=ValueSums(
            totals=sum(exact, Fraction(0)),
            total_squares=sum((value**2 for value in exact), Fraction(0)),
            counts=len(exact),
            count_squares=len(exact),
            products=sum(exact, Fraction(0)),
        ),
    )
