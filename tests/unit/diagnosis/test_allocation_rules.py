"""Sample ratio mismatch over all, by day, by attribute and at every look."""

from datetime import timedelta
from decimal import Decimal

import pytest

from app.diagnosis.facts import Arm, DayOfUsers, Entrances, ValueOfUsers
from app.diagnosis.values import Code, Severity, Unchecked
from tests.unit.diagnosis.worlds import FIRST_DAY, facts, found, unchecked

_SRM_CODES = (Code.SRM, Code.SRM_BY_DAY, Code.SRM_BY_ATTRIBUTE, Code.SRM_SEQUENTIAL)


@pytest.mark.parametrize("code", _SRM_CODES)
def test_allocation__as_planned__nothing_is_found(code: Code) -> None:
    assert found(code, facts()) == []


@pytest.mark.parametrize("code", _SRM_CODES[:2])
def test_allocation__nobody_there__is_not_checked(code: Code) -> None:
    assert unchecked(code, facts(days=[])) == "Nobody is exposed yet."


@pytest.mark.parametrize("code", _SRM_CODES)
def test_allocation__unknown__says_why(code: Code) -> None:
    assert unchecked(code, facts(days=Unchecked("gone"), attributes=Unchecked("gone"))) == "gone"


def test_srm__arms_off_by_two_percent__is_critical_with_its_numbers() -> None:
    (finding,) = found(Code.SRM, facts(days=[DayOfUsers(FIRST_DAY, (10_300, 9_700))]))

    assert finding.severity is Severity.CRITICAL
    assert finding.evidence["observed"] == {"control": 10_300, "treatment": 9_700}
    assert finding.evidence["expected"] == {"control": 10_000, "treatment": 10_000}
    assert finding.evidence["statistic"] == pytest.approx(18.0)
    assert "control has 51.5 % of 20,000 users where 50 % were planned" in finding.text


def test_srm__imports__are_named_first() -> None:
    world = facts(days=[DayOfUsers(FIRST_DAY, (700, 300))], entrances=Entrances(assigned=1000, imported=600))

    (finding,) = found(Code.SRM, world)

    assert finding.action.startswith("600 assignments were imported")


def test_srm__one_user_in_a_tiny_arm__is_no_mismatch() -> None:
    arms = (Arm("control", Decimal(99)), Arm("treatment", Decimal(1)))

    assert found(Code.SRM, facts(arms=arms, days=[DayOfUsers(FIRST_DAY, (2, 1))])) == []


def test_srm_by_day__one_bad_day_hidden_by_the_others__names_it() -> None:
    days = [DayOfUsers(FIRST_DAY + timedelta(days=day), (500, 500)) for day in range(20)]
    days[7] = DayOfUsers(days[7].day, (400, 600))
    world = facts(days=days)

    (finding,) = found(Code.SRM_BY_DAY, world)

    assert finding.evidence["mismatches"] == 1
    assert "2026-03-08" in finding.text
    assert "control has 40 % of 1,000 users where 50 % were planned" in finding.text


def test_srm_by_attribute__one_value_loses_users__names_it() -> None:
    values = [ValueOfUsers("browser", "Firefox", (500, 500)), ValueOfUsers("browser", "Safari", (600, 400))]

    (finding,) = found(Code.SRM_BY_ATTRIBUTE, facts(attributes=values))

    assert "browser = Safari" in finding.text
    assert finding.evidence["tested"] == 2


def test_srm_sequential__wrong_from_the_fourth_day_on__says_since_when() -> None:
    days = [DayOfUsers(FIRST_DAY + timedelta(days=day), (500, 500) if day < 3 else (560, 440)) for day in range(10)]

    (finding,) = found(Code.SRM_SEQUENTIAL, facts(days=days))

    assert "2026-03-04" <= str(finding.evidence["first_day"]) <= "2026-03-08"
