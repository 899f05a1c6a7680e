"""All studies, by name."""

from collections.abc import Callable, Iterable, Mapping

from benchmarks.simulations import (
    adjusted,
    beliefs,
    families,
    homogeneity,
    margins,
    means,
    plans,
    quantiles,
    rates,
    ratio_mismatch,
    stopping,
)
from benchmarks.simulations.cells import Table
from benchmarks.simulations.sizes import Size

STUDIES: Mapping[str, Callable[[Size, int], Iterable[Table]]] = {
    "rates": rates.studies,
    "means": means.studies,
    "cuped": adjusted.studies,
    "homogeneity": homogeneity.studies,
    "srm": ratio_mismatch.studies,
    "stopping": stopping.studies,
    "beliefs": beliefs.studies,
    "families": families.studies,
    "margins": margins.studies,
    "quantiles": quantiles.studies,
    "plans": plans.studies,
}
