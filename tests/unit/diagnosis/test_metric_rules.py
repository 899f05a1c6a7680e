"""Pre-exposure differences, empty metrics, small samples, nothing to tell, heavy tails and novelty."""

import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from app.diagnosis.facts import Missing, Prior, Sent, Tails
from app.diagnosis.metric_rules import why_missing
from app.diagnosis.values import Code, Severity, Unchecked
from app.experiments.lifecycle import Status
from app.metrics.values import Kind, Role
from tests.unit.diagnosis.worlds import binary, facts, found, mean_sample, metric, phases, unchecked


@pytest.mark.parametrize("code", [Code.PRE_EXPOSURE_DIFFERENCE, Code.EMPTY_METRIC, Code.SMALL_SAMPLE, Code.NOVELTY])
def test_metrics__as_they_should_be__nothing_is_found(code: Code) -> None:
    assert found(code, facts()) == []


def test_pre_exposure_difference__busier_users_in_one_arm__is_critical() -> None:
    priors = [Prior("events per user", 7, (mean_sample([0, 1, 2, 3] * 500), mean_sample([1, 2, 3, 3] * 500)))]

    (finding,) = found(Code.PRE_EXPOSURE_DIFFERENCE, facts(priors=priors))

    assert finding.severity is Severity.CRITICAL
    assert (finding.evidence["control_value"], finding.evidence["variant_value"]) == (1.5, 2.25)


def test_pre_exposure_difference__three_active_users__is_not_checked() -> None:
    priors = [Prior("events per user", 7, (mean_sample([0] * 99 + [5]), mean_sample([0] * 98 + [9, 9])))]

    assert "Too few users" in unchecked(Code.PRE_EXPOSURE_DIFFERENCE, facts(priors=priors))


@pytest.mark.parametrize(
    ("sent", "kind", "reason"),
    [
        ({}, Kind.SUM, Missing.NEVER_SENT),
        ({"of_others": 4}, Kind.SUM, Missing.OTHER_USERS),
        ({"of_others": 4, "early": 9}, Kind.SUM, Missing.BEFORE_EXPOSURE),
        ({"early": 9, "outside": 1}, Kind.SUM, Missing.OUTSIDE_WINDOW),
        ({"early": 9, "outside": 1, "filtered": 1}, Kind.SUM, Missing.FILTERED),
        ({"filtered": 9, "without_number": 1}, Kind.SUM, Missing.WITHOUT_NUMBER),
        ({"usable": 3}, Kind.FUNNEL, Missing.NOT_IN_ORDER),
    ],
)
def test_why_missing__events_lost_on_the_way__names_the_last_step(
    sent: dict[str, Any], kind: Kind, reason: Missing
) -> None:
    assert why_missing(Sent(event_types=("buy",), **sent), kind) is reason


def test_empty_metric__never_sent__names_the_type_and_what_to_check() -> None:
    empty = metric(binary(5000, 0), binary(5000, 0), key="refunds", events=0, sent=Sent(event_types=("refund",)))

    (finding,) = found(Code.EMPTY_METRIC, facts(metrics=[empty]))

    assert finding.severity is Severity.CRITICAL
    assert finding.evidence["reason"] == "NEVER_SENT"
    assert "no event of type refund has come to this project" in finding.text
    assert "spelling" in finding.action


def test_empty_metric__users_not_known__is_not_taken_for_nobody() -> None:
    assert unchecked(Code.EMPTY_METRIC, facts(days=Unchecked("dropped"))) == "dropped"


def test_empty_metric__secondary__is_a_warning() -> None:
    empty = metric(events=0, sent=Sent(event_types=(), early=5), samples=None, role=Role.SECONDARY)

    (finding,) = found(Code.EMPTY_METRIC, facts(metrics=[empty]))

    assert (finding.severity, finding.evidence["reason"]) == (Severity.WARNING, "BEFORE_EXPOSURE")
    assert "events of any type came only before" in finding.text


def test_small_sample__plan_not_reached__is_information_while_it_runs_and_a_warning_afterwards() -> None:
    (running,) = found(Code.SMALL_SAMPLE, facts(planned_sample=20_000))
    (ended,) = found(Code.SMALL_SAMPLE, facts(planned_sample=20_000, status=Status.COMPLETED))

    assert (running.severity, ended.severity) == (Severity.INFO, Severity.WARNING)
    assert (running.evidence["users"], running.evidence["planned_users"]) == (10_000, 20_000)


def test_small_sample__no_plan_and_a_coarse_metric__names_the_smallest_visible_lift() -> None:
    rare = metric(binary(500, 10), binary(500, 11))

    (finding,) = found(Code.SMALL_SAMPLE, facts(planned_sample=None, metrics=[rare]))

    # 2.80 standard errors of 0.0089 over 0.02.
    assert finding.evidence["minimum_detectable_effect"] == pytest.approx(1.27, abs=0.02)
    assert finding.severity is Severity.WARNING


def test_small_sample__no_plan_and_a_fine_metric__nothing_is_found() -> None:
    assert found(Code.SMALL_SAMPLE, facts(planned_sample=None)) == []


def test_cannot_tell__no_difference_anywhere__says_what_is_still_possible() -> None:
    alike = [metric(binary(5000, 2500), binary(5000, 2510 + step), key=f"m{step}") for step in range(3)]

    (finding,) = found(Code.CANNOT_TELL, facts(metrics=alike))

    assert finding.severity is Severity.INFO
    assert finding.evidence["comparisons"] == 3
    assert 0.03 < float(str(finding.evidence["largest_possible_lift"])) < 0.06


def test_cannot_tell__copies_of_nothing__suspects_that_nothing_was_changed() -> None:
    alike = [metric(binary(5000, 2500), binary(5000, 2501), key=f"m{number}") for number in range(20)]

    (finding,) = found(Code.CANNOT_TELL, facts(metrics=alike))

    assert "larger than chance explains" in finding.action


def test_cannot_tell__one_clear_difference__nothing_is_found() -> None:
    metrics = [
        metric(binary(5000, 2500), binary(5000, 2500 + more), key=f"m{more}", role=Role.SECONDARY)
        for more in (10, 20, 300)
    ]

    assert found(Code.CANNOT_TELL, facts(metrics=metrics)) == []


def test_cannot_tell__one_comparison__is_not_checked() -> None:
    assert "Fewer than 3" in unchecked(Code.CANNOT_TELL, facts())


def test_heavy_tails__a_few_users_hold_most_squares__suggests_a_bound() -> None:
    tails = Tails(users=1000, squares=1e6, squares_cut=2e5, variance=1e6, variance_cut=1e5)
    heavy = metric(binary(5000, 2500), binary(5000, 2500), key="revenue", tails=tails)

    (finding,) = found(Code.HEAVY_TAILS, facts(metrics=[heavy]))

    assert finding.evidence["share_of_squares"] == pytest.approx(0.8)
    assert finding.evidence["variance_saved"] == pytest.approx(0.9)
    assert "winsorize" in finding.action


def test_heavy_tails__even_numbers__nothing_is_found() -> None:
    tails = Tails(users=1000, squares=1e6, squares_cut=9.5e5, variance=1e6, variance_cut=9.5e5)

    assert found(Code.HEAVY_TAILS, facts(metrics=[metric(binary(9, 1), binary(9, 1), tails=tails)])) == []


def test_heavy_tails__no_metric_of_numbers__is_not_checked() -> None:
    assert "200 users or more" in unchecked(Code.HEAVY_TAILS, facts())


def _users(dice: random.Random, first: float, later: float, number: int = 1500) -> list[tuple[float, float]]:
    return [(dice.expovariate(1 / first), dice.expovariate(1 / later)) for _ in range(number)]


def test_novelty__effect_of_the_first_days_alone__is_found() -> None:
    dice = random.Random(1)

    (finding,) = found(Code.NOVELTY, facts(phases={"revenue": phases(_users(dice, 1, 1), _users(dice, 1.5, 1))}))

    assert float(str(finding.evidence["lift_first"])) > 0.35
    assert abs(float(str(finding.evidence["lift_later"]))) < 0.15


def test_novelty__the_same_lift_at_another_level__nothing_is_found() -> None:
    dice = random.Random(2)

    assert found(Code.NOVELTY, facts(phases={"revenue": phases(_users(dice, 4, 1), _users(dice, 6, 1.5))})) == []


def test_novelty__no_effect_many_times__keeps_its_level() -> None:
    dice = random.Random(3)
    worlds = (facts(phases={"revenue": phases(_users(dice, 1, 1, 200), _users(dice, 1, 1, 200))}) for _ in range(200))

    assert sum(bool(found(Code.NOVELTY, world)) for world in worlds) <= 6


def test_novelty__nobody_active__is_not_checked() -> None:
    idle = phases([(0.0, 0.0)] * 50, [(0.0, 0.0)] * 50)

    assert "Too few users" in unchecked(Code.NOVELTY, facts(phases={"revenue": idle}))


def test_novelty__numbers_that_no_ratio_can_be_made_of__is_not_checked() -> None:
    tiny, huge = [(1e-160, 1e140)] * 100, [(1e140, 1e-160)] * 100

    assert "Too few users" in unchecked(Code.NOVELTY, facts(phases={"revenue": phases(tiny, huge)}))


def test_metrics__next_to_nothing_in_the_control__leave_out_what_no_json_holds() -> None:
    dice = random.Random(4)
    metrics = [
        metric(
            mean_sample([dice.random() * 1e-149 for _ in range(100)]),
            mean_sample([dice.random() * 1e149 * dice.choice((-1, 1)) for _ in range(100)]),
            key=f"m{number}",
        )
        for number in range(3)
    ]
    world = facts(metrics=metrics, planned_sample=10)

    findings = [*found(Code.CANNOT_TELL, world), *found(Code.SMALL_SAMPLE, replace(world, planned_sample=10**9))]

    assert "inf" not in msgspec.json.encode([finding.evidence for finding in findings]).decode()
    assert {finding.code for finding in findings} >= {Code.SMALL_SAMPLE}
