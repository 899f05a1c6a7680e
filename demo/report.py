"""Tables of results, and their comparison with the truth."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from demo.shop import Plan, Purchase, true_differences

Json = dict[str, Any]

METRICS = ("conversion_rate", "value_per_user", "avg_value")
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Effect:
    """One true difference beside its measured interval."""

    name: str
    truth: float
    measured: float
    lower: float
    upper: float

    @property
    def is_within(self) -> bool:
        return self.lower <= self.truth <= self.upper


def results_table(plan: Plan, answer: Json) -> str:
    """Lay out every metric of every arm."""
    rows = [("metric", "arm", "users", "value", "95 % interval", "lift", "p")]
    comparisons = {(item["metric"], item["variant"]): item for item in answer["comparisons"]}
    arms = {item["key"]: item for item in answer["variants"]}
    for metric in METRICS:
        for arm in plan.arms:
            shown = arms[arm.key]["metrics"][metric]
            compared = comparisons.get((metric, arm.key))
            rows.append(
                (
                    metric if arm is plan.control else "",
                    arm.key,
                    f"{shown['sample_size']:,}",
                    _number(shown["value"]),
                    f"[{_number(shown['ci_lower'])}, {_number(shown['ci_upper'])}]",
                    "" if compared is None else f"{shown['lift_vs_control']:+.2f} %",
                    "" if compared is None else f"{compared['p_value']:.2g}",
                )
            )
    return layout(rows, left=2)


def effects(plan: Plan, answer: Json) -> list[Effect]:
    """Return the true effects of an experiment's arms beside what was measured."""
    comparisons = {(item["metric"], item["variant"]): item for item in answer["comparisons"]}
    found = []
    for arm in plan.arms[1:]:
        for metric, truth in true_differences(plan, arm).items():
            measured = comparisons[metric, arm.key]
            found.append(
                Effect(
                    f"{plan.slug}: {arm.key}, {metric}",
                    truth,
                    measured["difference"],
                    measured["difference_ci_lower"],
                    measured["difference_ci_upper"],
                )
            )
    return found


def effects_table(found: Sequence[Effect]) -> str:
    rows = [("effect", "true", "measured", "95 % interval", "holds the truth")]
    for effect in found:
        interval = f"[{effect.lower:+.4f}, {effect.upper:+.4f}]"
        verdict = "yes" if effect.is_within else "no"
        rows.append((effect.name, f"{effect.truth:+.4f}", f"{effect.measured:+.4f}", interval, verdict))
    return layout(rows)


def miscounts(plan: Plan, answer: Json, purchases: Iterable[Purchase], users: int) -> list[str]:
    """Compare counted purchases and their values with those that were made; returns what differs."""
    made: dict[str, list[float]] = {arm.key: [] for arm in plan.arms}
    for purchase in purchases:
        made[purchase.customer.arms[plan.slug]].append(purchase.value)
    wrong = []
    for variant in answer["variants"]:
        metrics, values = variant["metrics"], made[variant["key"]]
        counted = metrics["event_count"]["value"]
        total = (metrics["avg_value"]["value"] or 0.0) * counted
        if counted != len(values) or not math.isclose(total, math.fsum(values), rel_tol=_TOLERANCE):
            wrong.append(
                f"{plan.slug}, {variant['key']}: {counted} purchases of {total:.2f} are counted, "
                f"{len(values)} of {math.fsum(values):.2f} were made"
            )
    if answer["metadata"]["total_users"] != users:
        wrong.append(f"{plan.slug}: {answer['metadata']['total_users']} users are counted, {users} were assigned")
    return wrong


def layout(rows: Sequence[tuple[str, ...]], *, left: int = 1) -> str:
    """Align columns: the first ones to the left, the others to the right; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    lines.insert(1, "  " + "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
