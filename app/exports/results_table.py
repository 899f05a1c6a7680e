"""Results as a table: one row for each variant and metric, with its comparison against another variant beside it."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.exports.values import Column, Holds
from app.results.answer import Results
from app.results.comparison_values import ComparisonResult
from app.results.variant_values import MetricResult, VariantResult

Row = Mapping[str, Any]

# In the answer under the same names.
_MEASURED = ("value", "sample_size", "ci_lower", "ci_upper", "lift_vs_control", "prob_best")
_COMPARED = (
    *("n_variant", "n_control", "difference", "difference_ci_lower", "difference_ci_upper"),
    *("lift", "lift_ci_lower", "lift_ci_upper", "statistic", "df"),
    *("p_value", "p_value_adjusted", "p_value_holm", "p_value_bh"),
    *("always_valid_p_value", "always_valid_ci_lower", "always_valid_ci_upper"),
    *("always_valid_lift_ci_lower", "always_valid_lift_ci_upper"),
)
# In blocks of a comparison, whose names come before.
_OF_BAYES = ("prob_better", "expected_loss_if_shipped", "expected_loss_if_kept", "credible_lower", "credible_upper")
_OF_CUPED = (
    *("difference", "difference_ci_lower", "difference_ci_upper", "lift", "lift_ci_lower", "lift_ci_upper"),
    *("p_value", "theta", "variance_reduction_percent"),
)
_WHOLE = frozenset({"sample_size", "n_variant", "n_control"})

_COMPARISON_COLUMNS = (
    Column("control", Holds.LABEL),
    *(Column(name, Holds.WHOLE if name in _WHOLE else Holds.NUMBER) for name in _COMPARED),
    *(Column(f"bayes_{name}", Holds.NUMBER) for name in _OF_BAYES),
    Column("bayes_null_reason", Holds.LABEL),
    *(Column(f"cuped_{name}", Holds.NUMBER) for name in _OF_CUPED),
    Column("cuped_null_reason", Holds.LABEL),
    Column("noninferiority_margin", Holds.NUMBER),
    Column("noninferiority_statistic", Holds.NUMBER),
    Column("noninferiority_p_value", Holds.NUMBER),
    Column("noninferiority_shown", Holds.FLAG),
    Column("noninferiority_null_reason", Holds.LABEL),
    Column("method", Holds.LABEL),
    Column("comparison_null_reason", Holds.LABEL),
)
RESULT_COLUMNS = (
    Column("experiment_id", Holds.WHOLE),
    Column("variant", Holds.LABEL),
    Column("is_control", Holds.FLAG),
    Column("below_min_sample", Holds.FLAG),
    Column("metric", Holds.LABEL),
    *(Column(name, Holds.WHOLE if name in _WHOLE else Holds.NUMBER) for name in _MEASURED),
    Column("prob_best_null_reason", Holds.LABEL),
    Column("steps", Holds.LABEL),
    Column("null_reason", Holds.LABEL),
    *_COMPARISON_COLUMNS,
)


def result_rows(results: Results) -> list[Row]:
    """Return the table.

    The columns of the comparison are empty for who is compared with nobody; who is compared with several has a row for
    each of them.
    """
    return [
        {"experiment_id": results.experiment_id, **_measured(variant, str(metric), measured), **comparison}
        for variant in results.variants
        for metric, measured in variant.metrics.items()
        for comparison in _comparisons(results, variant.key, str(metric))
    ]


def _measured(variant: VariantResult, metric: str, measured: MetricResult) -> Row:
    return {
        "variant": variant.key,
        "is_control": variant.is_control,
        "below_min_sample": variant.below_min_sample,
        "metric": metric,
        **{name: getattr(measured, name) for name in _MEASURED},
        "prob_best_null_reason": measured.prob_best_null_reason,
        # Of a funnel, as 40/22/9.
        "steps": None if measured.steps is None else "/".join(map(str, measured.steps)),
        "null_reason": measured.null_reason,
    }


def _comparisons(results: Results, variant: str, metric: str) -> list[Row]:
    found = [_comparison(item) for item in results.comparisons if (item.variant, str(item.metric)) == (variant, metric)]
    return found or [dict.fromkeys(column.name for column in _COMPARISON_COLUMNS)]


def _comparison(item: ComparisonResult) -> Row:
    guarded = item.noninferiority
    return {
        "control": item.control,
        **{name: getattr(item, name) for name in _COMPARED},
        **{f"bayes_{name}": getattr(item.bayes, name) for name in (*_OF_BAYES, "null_reason")},
        **{f"cuped_{name}": getattr(item.cuped, name) for name in (*_OF_CUPED, "null_reason")},
        "noninferiority_margin": None if guarded is None else guarded.margin,
        "noninferiority_statistic": None if guarded is None else guarded.statistic,
        "noninferiority_p_value": None if guarded is None else guarded.p_value,
        "noninferiority_shown": None if guarded is None else guarded.shown,
        "noninferiority_null_reason": None if guarded is None else guarded.null_reason,
        "method": str(item.method),
        "comparison_null_reason": item.null_reason,
    }


def as_csv(columns: Sequence[Column], rows: Iterable[Row]) -> bytes:
    """Write the rows as the other exports are written: floats with the fewest digits that read back the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([[_field(row[column.name]) for column in columns] for row in rows])
    return text.getvalue().encode()


def _field(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
