"""The whole diagnosis on experiments of a variant against itself: how often it cries wolf."""

import random
from datetime import timedelta
from decimal import Decimal

import pytest

from app.diagnosis.facts import Arm, DayOfUsers, Facts, Prior, ValueOfUsers
from app.diagnosis.judgement import RULES, judged
from app.diagnosis.values import Code, Finding, Outcome, Severity
from tests.unit.diagnosis.worlds import FIRST_DAY, HALVES, facts, mean_sample, metric, phases, split

_RUNS = 250
_UNEVEN = (Arm("control", Decimal(80)), Arm("b", Decimal(15)), Arm("c", Decimal(5)))


def _against_itself(dice: random.Random, arms: tuple[Arm, ...]) -> Facts:
    """Draw 14 days of users with two attributes, numbers from before, and two metrics, one of them heavy-tailed."""
    days = [DayOfUsers(FIRST_DAY + timedelta(days=day), split(dice, dice.randint(5, 80), arms)) for day in range(14)]
    sizes = [sum(day.users[arm] for day in days) for arm in range(len(arms))]
    attributes = [
        ValueOfUsers(name, str(value), split(dice, dice.randint(1, 200), arms))
        for name in ("country", "device")
        for value in range(10)
    ]
    before = [mean_sample([dice.randint(0, 4) for _ in range(size)]) for size in sizes]
    paid_before = [mean_sample([dice.lognormvariate(0, 1.5) for _ in range(size)]) for size in sizes]
    converted = [mean_sample([float(dice.random() < 0.1) for _ in range(size)]) for size in sizes]
    paid = [mean_sample([dice.lognormvariate(0, 1.5) for _ in range(size)]) for size in sizes]
    moves = [[(dice.expovariate(1), dice.expovariate(1)) for _ in range(size)] for size in sizes]
    return facts(
        arms=arms,
        days=days,
        attributes=attributes,
        priors=[Prior("events per user", 7, tuple(before)), Prior("value per user", 7, tuple(paid_before))],
        metrics=[metric(*converted), metric(*paid, key="revenue")],
        phases={"conversion_rate": phases(*moves)},
    )


@pytest.mark.parametrize("arms", [HALVES, _UNEVEN], ids=["halves", "uneven"])
def test_diagnosis__variant_against_itself__is_critical_in_less_than_five_percent(arms: tuple[Arm, ...]) -> None:
    dice = random.Random(20260331)

    alarms: list[Finding] = []
    critical = 0
    for _ in range(_RUNS):
        findings, _ = judged(_against_itself(dice, arms))
        grave = [finding for finding in findings if finding.severity is Severity.CRITICAL]
        alarms += grave
        critical += bool(grave)

    assert critical / _RUNS < 0.05, [finding.code for finding in alarms]


def test_diagnosis__every_code__is_either_found_or_listed_as_checked() -> None:
    findings, checked = judged(facts(two_variants=500, planned_sample=99_999))

    assert {finding.code for finding in findings} | {one.code for one in checked} == set(RULES) == set(Code)
    assert {finding.code for finding in findings}.isdisjoint({one.code for one in checked})
    assert all((one.reason is None) == (one.outcome is Outcome.FINE) for one in checked)


def test_diagnosis__findings_of_all_kinds__begin_with_the_gravest() -> None:
    findings, _ = judged(facts(planned_sample=99_999, two_variants=500))

    assert [finding.severity for finding in findings] == [Severity.CRITICAL, Severity.INFO]
