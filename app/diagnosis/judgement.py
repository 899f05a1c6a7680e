"""All rules, applied to the facts. Plain functions, no I/O."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from app.diagnosis import allocation_rules, behaviour_rules, data_rules, metric_rules, size_rules
from app.diagnosis.facts import Facts
from app.diagnosis.values import Checked, Code, Finding, Outcome, Severity, Unchecked

Rule = Callable[[Facts], list[Finding] | Unchecked]

RULES: Mapping[Code, Rule] = MappingProxyType(
    {
        Code.SRM: allocation_rules.srm,
        Code.SRM_BY_DAY: allocation_rules.srm_by_day,
        Code.SRM_BY_ATTRIBUTE: allocation_rules.srm_by_attribute,
        Code.SRM_SEQUENTIAL: allocation_rules.srm_at_every_look,
        Code.USERS_IN_TWO_VARIANTS: data_rules.users_in_two_variants,
        Code.EXPOSURE_BEFORE_START: data_rules.exposure_before_start,
        Code.EXPOSURE_RECORDED_LATE: data_rules.exposure_recorded_late,
        Code.MID_RUN_CHANGES: data_rules.mid_run_changes,
        Code.PRE_EXPOSURE_DIFFERENCE: behaviour_rules.pre_exposure_difference,
        Code.EMPTY_METRIC: metric_rules.empty_metric,
        Code.SMALL_SAMPLE: size_rules.small_sample,
        Code.CANNOT_TELL: size_rules.cannot_tell,
        Code.HEAVY_TAILS: metric_rules.heavy_tails,
        Code.NOVELTY: behaviour_rules.novelty,
        Code.STALE_DATA: data_rules.stale_data,
        Code.CLOCK_SKEW: data_rules.clock_skew,
    }
)
_GRAVITY = {severity: place for place, severity in enumerate(Severity)}


def judged(facts: Facts) -> tuple[tuple[Finding, ...], tuple[Checked, ...]]:
    """Return all findings, the gravest first, and the checks that found nothing."""
    findings: list[Finding] = []
    checked: list[Checked] = []
    for code, rule in RULES.items():
        found = rule(facts)
        if isinstance(found, Unchecked):
            checked.append(Checked(code, Outcome.NOT_CHECKED, found.reason))
        elif found:
            findings += found
        else:
            checked.append(Checked(code, Outcome.FINE))
    return tuple(sorted(findings, key=lambda finding: _GRAVITY[finding.severity])), tuple(checked)
