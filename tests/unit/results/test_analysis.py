"""What an answer says about metrics, wherever they were measured."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta, timezone
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest

from app.core.errors import Invalid
from app.experiments.analysis_plan import AnalysisPlan, StoppingRule
from app.metrics.values import AttachedMetric, Direction, Kind, Recipe, Role
from app.metrics.values import Metric as StoredMetric
from app.results.analysis import analyse, answer
from app.results.answer import Results
from app.results.comparison_values import ComparisonResult
from app.results.measured import DailyArm, Measured, MeasuredArm, Shape
from app.results.provenance import Provenance
from app.results.reading import PLAIN, Pair, Reading
from app.results.schemas import ResultsOut
from app.results.values import Entries, Exclusion, Metric, Observations, Question, Source
from app.results.verdicts import DecisionVerdict, Verdict
from app.stats.cuped import cuped_difference
from app.stats.multiple import Correction, adjust_p_values
from app.stats.samples import ArmEstimate, CovariateSample, MeanSample, Proportion, RatioSample, Sample
from app.stats.sequential import always_valid_interval
from tests.unit.results.arms import STARTED, arm, experiment, observed

_DAY = timedelta(days=1)
_NOW = STARTED + 30 * _DAY
_HERE = Provenance(Source.HOT, _NOW - timedelta(seconds=2), _NOW)
_THREE = observed(arm(1000, 100), arm(1000, 150), arm(1000, 120))


def _ask(observations: Observations = _THREE, reading: Reading = PLAIN, arms: int = 3, **question: Any) -> Results:
    return answer(experiment(arms), Question(**question), observations, _HERE, reading)


def _analyse(*metrics: Measured, reading: Reading = PLAIN, **fields: Any) -> Results:
    """Analyse metrics of an experiment with a control, 1, and a treatment, 2."""
    return analyse(experiment(**fields), Question(), reading, metrics, observed(arm(1000), arm(1000)), _HERE)


def _covariates(seed: int, shift: float = 0.0, n: int = 1000) -> CovariateSample:
    rng = np.random.default_rng(seed)
    before = rng.normal(10, 3, n)
    after = before + rng.normal(shift, 1, n)
    return CovariateSample.from_sums(
        n=n,
        post_sum=after.sum(),
        post_sum_squares=(after**2).sum(),
        pre_sum=before.sum(),
        pre_sum_squares=(before**2).sum(),
        post_pre_sum_products=(after * before).sum(),
    )


def _means(*arms: CovariateSample, **fields: Any) -> Measured:
    return Measured(
        key="spend",
        shape=Shape.MEAN,
        arms={
            number: MeasuredArm(sample=found.sums.first, covariate=found) for number, found in enumerate(arms, start=1)
        },
        **fields,
    )


def _rates(*arms: tuple[int, int], **fields: Any) -> Measured:
    found = {number: MeasuredArm(sample=Proportion(*counts)) for number, counts in enumerate(arms, start=1)}
    return Measured(key=fields.pop("key", "signup"), shape=Shape.RATE, arms=found, **fields)


def _by_pair(results: Results, metric: str) -> dict[tuple[str, str], ComparisonResult]:
    return {(found.variant, found.control): found for found in results.comparisons if found.metric == metric}


def test_answer__any_pair__is_compared_on_request_and_joins_the_family() -> None:
    plain = _ask(metrics=(Metric.CONVERSION_RATE,))
    found = _ask(metrics=(Metric.CONVERSION_RATE,), reading=Reading(compare=(Pair("treatment_2", "treatment_1"),)))

    comparisons = _by_pair(found, "conversion_rate")
    assert list(comparisons) == [
        ("treatment_1", "control"),
        ("treatment_2", "control"),
        ("treatment_2", "treatment_1"),
    ]
    asked = comparisons["treatment_2", "treatment_1"]
    assert asked.difference == pytest.approx(-0.03)
    assert (found.metadata.family.comparisons, found.metadata.family.tested) == (3, 3)
    assert found.metadata.compare == ("treatment_2:treatment_1",)
    p_values = [comparison.p_value for comparison in comparisons.values()]
    bh = adjust_p_values(p_values, method=Correction.BENJAMINI_HOCHBERG).adjusted
    assert tuple(comparison.p_value_bh for comparison in comparisons.values()) == bh
    assert tuple(comparison.p_value_holm for comparison in comparisons.values()) == adjust_p_values(p_values).adjusted
    assert all(comparison.p_value_holm == comparison.p_value_adjusted for comparison in comparisons.values())
    # What decides does not depend on which pairs somebody wants to see.
    assert found.summary == plain.summary


def test_answer__without_intervals__has_none_of_any_kind_and_everything_else() -> None:
    metric = _means(_covariates(1), _covariates(2, shift=0.1))
    seen = observed(arm(1000), arm(1000))
    (whole,), (bare,) = (
        analyse(experiment(), Question(include_ci=include_ci), PLAIN, [metric], seen, _HERE).comparisons
        for include_ci in (True, False)
    )

    intervals = {name for name in _leaves(whole) if "ci_" in name or "credible" in name}
    assert len(intervals) == 14
    assert None not in {_leaves(whole)[name] for name in intervals}
    assert _leaves(bare) == {**_leaves(whole), **dict.fromkeys(intervals)}


def test_answer__without_intervals__says_nothing_of_why_there_are_none() -> None:
    metric = _rates((100, 1000), (0, 1000))
    seen = observed(arm(1000), arm(1000))
    (whole,), (bare,) = (
        analyse(experiment(), Question(include_ci=include_ci), PLAIN, [metric], seen, _HERE).comparisons
        for include_ci in (True, False)
    )

    assert (whole.null_reason, bare.null_reason) == ("NO_SPREAD_AROUND_ZERO", None)
    assert len(whole.notes) == 1
    assert not bare.notes


def _leaves(comparison: ComparisonResult) -> dict[str, object]:
    """Return a comparison's fields by their names, those of its blocks below the block's name."""
    found: dict[str, object] = {}
    for name, value in asdict(comparison).items():
        found |= (
            {f"{name}.{inner}": leaf for inner, leaf in value.items()} if isinstance(value, dict) else {name: value}
        )
    return found


def test_answer__pair_that_is_there_anyway__is_not_shown_twice() -> None:
    found = _ask(reading=Reading(compare=(Pair("treatment_1", "control"),)))

    assert found.comparisons == _ask().comparisons


@pytest.mark.parametrize("pair", [Pair("treatment_1", "nobody"), Pair("control", "control")])
def test_answer__pair_of_no_two_variants__is_refused_by_name(pair: Pair) -> None:
    with pytest.raises(Invalid) as refused:
        _ask(reading=Reading(compare=(pair,)))

    assert refused.value.extensions["errors"][0]["field"] == "compare"  # type: ignore[index]


def test_answer__chances_to_be_the_best__sum_to_one_where_there_is_a_test() -> None:
    found = _ask(metrics=(Metric.CONVERSION_RATE, Metric.UNIQUE_USERS))

    chances = [variant.metrics["conversion_rate"].prob_best for variant in found.variants]
    assert sum(chance or 0 for chance in chances) == pytest.approx(1)
    assert max(range(3), key=lambda index: chances[index] or 0) == 1
    assert {variant.metrics["unique_users"].prob_best for variant in found.variants} == {None}


def test_answer__beta_prior__is_used_and_shown() -> None:
    flat = _by_pair(_ask(), "conversion_rate")["treatment_1", "control"].bayes
    firm = _by_pair(_ask(reading=Reading(prior_alpha=1e5, prior_beta=9e5)), "conversion_rate")[
        "treatment_1", "control"
    ].bayes

    assert flat.prob_better is not None
    assert firm.prob_better is not None
    assert flat.prob_better > 0.99 > firm.prob_better > 0.5
    assert (firm.prior.kind, firm.prior.alpha, firm.prior.beta) == ("beta", 1e5, 9e5)
    assert flat.credible_lower is not None
    assert flat.credible_lower > 0


def test_analyse__prior_on_the_lift__pulls_the_difference_towards_it() -> None:
    metric = _means(_covariates(1), _covariates(2, 1.0))
    flat = _analyse(metric).comparisons[0].bayes
    sceptical = _analyse(metric, reading=Reading(prior_lift_std=0.001)).comparisons[0].bayes

    assert (flat.prior.kind, sceptical.prior.kind, sceptical.prior.lift_std) == ("flat", "normal", 0.001)
    assert flat.credible_upper is not None
    assert sceptical.credible_upper is not None
    assert sceptical.credible_upper < flat.credible_upper / 3


def _of_values(*arms: tuple[float, ...]) -> Measured:
    samples = [
        MeanSample(
            n=len(values),
            sum_values=sum(map(Fraction, values), Fraction(0)),
            sum_squares=sum((Fraction(value) ** 2 for value in values), Fraction(0)),
        )
        for values in arms
    ]
    found = {number: MeasuredArm(sample=sample) for number, sample in enumerate(samples, start=1)}
    return Measured(key="balance", shape=Shape.MEAN, arms=found)


def test_analyse__prior_on_the_lift_of_a_control_below_zero__is_a_difference_of_that_lift() -> None:
    arm_of_ten = (-102.0, -100.0) * 5
    reading = Reading(prior_lift_mean=0.2, prior_lift_std=1e-6)
    found = _analyse(_of_values(arm_of_ten, arm_of_ten), reading=reading).comparisons[0].bayes

    # The control's value is -101, and a lift of 20 % of it is -20.2, whatever twenty users say.
    assert found.credible_lower == pytest.approx(-20.2, rel=1e-3)
    assert found.credible_upper == pytest.approx(-20.2, rel=1e-3)


@pytest.mark.parametrize(
    ("control", "reason"),
    [((1e160, -3e160), "OUT_OF_RANGE"), ((1.0, -1.0), "ZERO_BASELINE"), ((), "EMPTY_ARM")],
)
def test_analyse__prior_on_the_lift_that_cannot_be_brought_to_the_unit__says_why(
    control: tuple[float, ...], reason: str
) -> None:
    (found,) = _analyse(_of_values(control, (1.0, 2.0)), reading=Reading(prior_lift_std=0.1)).comparisons

    assert (found.bayes.prob_better, found.bayes.null_reason) == (None, reason)


def test_analyse__less_is_better__belief_winner_and_decision_turn() -> None:
    arms = ((600, 1000), (400, 1000))
    up, down = _analyse(_rates(*arms)), _analyse(_rates(*arms, direction=Direction.DOWN))

    assert up.summary.verdict is Verdict.CONTROL_WINS
    assert (down.summary.verdict, down.summary.winning_variant) == (Verdict.TREATMENT_WINS, "treatment_1")
    assert (up.summary.decision.verdict, down.summary.decision.verdict) == (
        DecisionVerdict.DO_NOT_SHIP,
        DecisionVerdict.SHIP,
    )
    better = [found.comparisons[0].bayes.prob_better for found in (up, down)]
    assert better == pytest.approx([0, 1], abs=1e-9)
    assert up.comparisons[0].bayes.expected_loss_if_shipped == down.comparisons[0].bayes.expected_loss_if_kept
    assert up.comparisons[0].difference == down.comparisons[0].difference
    assert down.variants[1].metrics["signup"].prob_best == pytest.approx(1)


def test_analyse__covariate__stands_beside_the_raw_comparison() -> None:
    before, after = _covariates(1), _covariates(2, 0.2)

    found = _analyse(_means(before, after)).comparisons[0]

    want = cuped_difference(before, after)
    assert found.cuped.difference == want.comparison.difference
    assert found.cuped.p_value == want.comparison.p_value
    assert found.cuped.theta == pytest.approx(1, abs=0.05)
    # The covariate has nine tenths of the variance.
    assert found.cuped.variance_reduction_percent == pytest.approx(90, abs=2)
    assert found.cuped.lift_ci_lower is not None
    assert found.p_value is not None
    assert found.p_value > (found.cuped.p_value or 0)


def test_answer__no_covariate__is_null_with_the_reason() -> None:
    found = _ask().comparisons[0].cuped

    assert (found.difference, found.p_value, found.null_reason) == (None, None, "NO_COVARIATE")


def test_analyse__daily_samples__give_the_cumulative_effect_with_both_intervals() -> None:
    days = [(50, 500), (110, 1000), (160, 1500)]
    control = tuple(
        DailyArm(time=STARTED + day * _DAY, sample=Proportion(40 * (day + 1), 500 * (day + 1))) for day in (0, 2)
    )
    treatment = tuple(
        DailyArm(time=STARTED + day * _DAY, sample=Proportion(*counts)) for day, counts in enumerate(days)
    )
    metric = Measured(
        key="signup",
        shape=Shape.RATE,
        arms={
            1: MeasuredArm(sample=Proportion(120, 1500), daily=control),
            2: MeasuredArm(sample=Proportion(160, 1500), daily=treatment),
        },
    )

    results = _analyse(metric)

    (series,) = results.effect_over_time
    assert (series.metric, series.variant, series.null_reason) == ("signup", "treatment_1", None)
    # On the second day nothing changed in the control.
    assert [(point.time, point.n_control, point.n_variant) for point in series.points] == [
        (STARTED, 500, 500),
        (STARTED + _DAY, 500, 1000),
        (STARTED + 2 * _DAY, 1500, 1500),
    ]
    last, whole = series.points[-1], results.comparisons[0]
    assert (last.difference, last.ci_lower, last.ci_upper) == (
        whole.difference,
        whole.difference_ci_lower,
        whole.difference_ci_upper,
    )
    assert last.always_valid_ci_lower == pytest.approx(whole.always_valid_ci_lower, rel=1e-12)


@pytest.mark.parametrize("shape", [Shape.MEAN, Shape.RATIO])
def test_analyse__last_day__says_what_the_comparison_says(shape: Shape) -> None:
    samples = [_sample_of(shape, seed) for seed in (1, 2)]
    arms = {
        number: MeasuredArm(sample=sample, daily=(DailyArm(time=STARTED, sample=sample),))
        for number, sample in enumerate(samples, start=1)
    }

    results = _analyse(Measured(key="m", shape=shape, arms=arms))

    point, whole = results.effect_over_time[0].points[0], results.comparisons[0]
    always = always_valid_interval(*samples)
    assert (point.difference, point.ci_lower, point.ci_upper) == (
        whole.difference,
        whole.difference_ci_lower,
        whole.difference_ci_upper,
    )
    assert (point.always_valid_ci_lower, point.always_valid_ci_upper) == pytest.approx((always.lower, always.upper))


def _sample_of(shape: Shape, seed: int) -> Sample:
    sums = _covariates(seed).sums
    if shape is Shape.MEAN:
        return sums.first
    return RatioSample.from_sums(
        n=sums.n,
        num_sum=sums.first.sum_values,
        num_sum_squares=sums.first.sum_squares,
        den_sum=sums.second.sum_values,
        den_sum_squares=sums.second.sum_squares,
        num_den_sum_products=sums.products,
    )


def test_answer__built_in_metrics__have_no_daily_data_yet_and_say_so() -> None:
    found = {(series.metric, series.variant): series.null_reason for series in _ask().effect_over_time}

    assert found == {
        ("conversion_rate", "treatment_1"): "NO_DAILY_DATA",
        ("conversion_rate", "treatment_2"): "NO_DAILY_DATA",
        ("unique_users", "treatment_1"): "NO_TEST",
        ("unique_users", "treatment_2"): "NO_TEST",
    }


def test_answer__exposures_by_hour__add_up_by_day() -> None:
    hours = tuple(Entries(STARTED + timedelta(hours=hour), 10) for hour in (0, 5, 23, 24, 50))
    seen = observed(replace(arm(50), entries=hours), arm(0))

    first, second = _ask(seen, arms=2).exposures_over_time

    assert [(point.time.day, point.users, point.total) for point in first.points] == [
        (1, 30, 30),
        (2, 10, 40),
        (3, 10, 50),
    ]
    assert second.points == ()


def _attached(key: str, role: Role, margin: float | None = None) -> AttachedMetric:
    metric = StoredMetric(
        id=1,
        project_id=1,
        key=key,
        version=2,
        name=key,
        description=None,
        recipe=Recipe(kind=Kind.CONVERSION, selections=()),
        direction=Direction.UP,
        unit=None,
    )
    return AttachedMetric(metric=metric, role=role, margin=margin)


@pytest.mark.parametrize(
    ("guardrail", "verdict"),
    [((500, 1000), "KEEP_RUNNING"), ((700, 1000), "SHIP"), ((300, 1000), "DO_NOT_SHIP")],
)
def test_analyse__planned_guardrail__has_to_hold_before_anything_ships(
    guardrail: tuple[int, int], verdict: str
) -> None:
    planned = (_attached("signup", Role.PRIMARY), _attached("retention", Role.GUARDRAIL, 0.02))
    guard = _rates((500, 1000), guardrail, key="retention", role=Role.GUARDRAIL, margin=0.02)

    found = _analyse(guard, _rates((100, 1000), (200, 1000)), metrics=planned)

    assert found.summary.metric == "retention"
    assert found.summary.decision.rule.metric == "signup"
    assert found.summary.decision.verdict is DecisionVerdict(verdict)
    shown = found.comparisons[0].noninferiority
    assert shown is not None
    assert (shown.margin, shown.shown) == (0.02, verdict == "SHIP")
    assert found.comparisons[1].noninferiority is None


def test_analyse__planned_primary_not_asked__decides_nothing_and_says_what_to_ask() -> None:
    found = _analyse(_rates((100, 1000), (200, 1000)), metrics=(_attached("revenue", Role.PRIMARY),))

    assert found.summary.decision.verdict is DecisionVerdict.INVALID
    assert "metrics=revenue" in found.summary.decision.reasons[0].text
    assert found.summary.winning_variant == "treatment_1"


def test_answer__users_in_two_variants__make_it_invalid_and_are_counted() -> None:
    strayed = replace(arm(1000, 100), excluded={Exclusion.TWO_VARIANTS: 30, Exclusion.OVERRIDE: 2})

    found = _ask(observed(strayed, arm(1000, 200)), arms=2)

    assert found.summary.decision.verdict is DecisionVerdict.INVALID
    assert found.provenance.users_excluded == {"TWO_VARIANTS": 30, "OVERRIDE": 2}


def test_answer__planned_sample__days_remain_at_the_present_rate() -> None:
    entries = tuple(Entries(STARTED + day * _DAY, 100) for day in range(30))
    seen = observed(*[replace(arm(3000, 300), entries=entries)] * 2)
    planned = experiment(plan=AnalysisPlan(sample_size=7000))

    found = answer(planned, Question(), seen, _HERE).summary
    by_hand = answer(experiment(), Question(), seen, _HERE, Reading(planned_sample=9000)).summary

    assert (found.users_per_day, found.remaining_days, found.remaining_days_null_reason) == (200, 5, None)
    assert by_hand.remaining_days == 15
    assert (found.decision.rule.stopping_rule, found.decision.rule.planned_sample) == ("fixed", 7000)
    assert found.decision.rule.information == pytest.approx(6 / 7)


def test_answer__sealed_rule_looks_at_any_time__no_sample_from_outside_changes_it() -> None:
    planned = experiment(plan=AnalysisPlan(stopping_rule=StoppingRule.ALWAYS_VALID))
    # Significant for one look, and not at every look.
    seen = observed(arm(1000, 100), arm(1000, 130))

    found = answer(planned, Question(), seen, _HERE, Reading(planned_sample=1000)).summary.decision

    assert (found.rule.stopping_rule, found.rule.planned_sample) == ("always_valid", 1000)
    assert found.verdict is DecisionVerdict.DO_NOT_SHIP
    by_hand = answer(experiment(), Question(), seen, _HERE, Reading(planned_sample=1000)).summary.decision
    assert (by_hand.rule.stopping_rule, by_hand.verdict) == ("fixed", DecisionVerdict.SHIP)


def test_answer__lift_without_ends__is_said_in_words() -> None:
    found = _ask(observed(arm(100, 1), arm(100, 9)), arms=2).comparisons[0]

    assert found.null_reason == "UNBOUNDED"
    assert "could be anything" in found.notes[0]


def test_answer__provenance__names_sources_lag_versions_and_the_question() -> None:
    found = _ask(metrics=(Metric.CONVERSION_RATE,)).provenance

    assert (found.sources, found.lag_seconds, found.experiment_version) == (("postgresql",), 2.0, 3)
    assert found.metric_versions == {"conversion_rate": None}
    assert found.events_counted == 370
    assert found.null_reasons == {
        "answer_id": "NOT_STORED",
        "duplicates_dropped": "NOT_COUNTED",
        "late_events": "COUNTED_AHEAD",
    }


def test_answer__query_hash__is_of_the_question_and_not_of_the_data() -> None:
    def digest(observations: Observations = _THREE, reading: Reading = PLAIN, **question: Any) -> str:
        return _ask(observations, reading, **question).provenance.query_hash

    elsewhere = STARTED.astimezone(timezone(timedelta(hours=2)))
    assert digest() == digest(observed(arm(5), arm(6), arm(7))) == digest(fresh=True)
    assert digest(start=STARTED) == digest(start=elsewhere)
    different = {
        digest(),
        digest(start=STARTED),
        digest(metrics=(Metric.CONVERSION_RATE,)),
        digest(reading=Reading(prior_alpha=2.0)),
        answer(experiment(3, version=4), Question(), _THREE, _HERE).provenance.query_hash,
    }
    assert len(different) == 5
    assert all(len(one) == 64 for one in different)


def test_answer__several_sources__are_named() -> None:
    found = answer(experiment(3), Question(), _THREE, replace(_HERE, source=Source.BOTH))

    assert found.provenance.sources == ("clickhouse", "postgresql")


def _numbers(value: object) -> Iterator[float]:
    match value:
        case dict():
            for inner in value.values():
                yield from _numbers(inner)
        case list():
            for inner in value:
                yield from _numbers(inner)
        case float():
            yield value


@pytest.mark.parametrize("reading", [PLAIN, Reading(prior_lift_std=0.1, target_mde=1e-6, planned_sample=None)])
@pytest.mark.parametrize("confidence_level", [1e-6, 95.0, 100 - 1e-9])
@pytest.mark.parametrize(
    "arms",
    [
        (arm(0), arm(0)),
        (arm(0), arm(5, 5)),
        (arm(1, 1, values=(1.0,)), arm(1)),
        (arm(2), arm(2)),
        (arm(5, 5, values=(1.0,) * 5), arm(5, 5, values=(1.0,) * 5)),
        (arm(5, 1, values=(-3.0,)), arm(5, 1, values=(1e-300,))),
        (arm(5, 2, values=(1e150, -1e150)), arm(5, 2, values=(1e-150, 1e150))),
        (arm(10**9, 1), arm(10**9, 10**9 - 1)),
    ],
)
def test_answer__odd_arms__every_number_is_finite_and_the_schema_holds(
    arms: tuple[Any, ...], confidence_level: float, reading: Reading
) -> None:
    found = _ask(observed(*arms), reading, arms=2, metrics=tuple(Metric), confidence_level=confidence_level)

    shown = ResultsOut.of(found)
    assert all(math.isfinite(number) for number in _numbers(shown.model_dump()))
    # The cache's and the kept answer's form holds the same.
    encoded = msgspec.json.encode(found)
    assert msgspec.json.decode(encoded, type=Results) == found
    assert json.loads(encoded) == json.loads(shown.model_dump_json())


def test_analyse__ten_metrics_of_three_arms_with_a_month_of_days__is_fast() -> None:
    def sample(shape: Shape, seed: int, n: int) -> Sample:
        if shape is Shape.RATE:
            return Proportion(n // 10 + seed, n)
        base = _covariates(seed, n=50).sums
        scale = Fraction(n, 50)
        first, second = (
            MeanSample.from_sums(n=n, sum_values=one.sum_values * scale, sum_squares=one.sum_squares * scale)
            for one in (base.first, base.second)
        )
        if shape is Shape.MEAN:
            return first
        return RatioSample.from_sums(
            n=n,
            num_sum=first.sum_values,
            num_sum_squares=first.sum_squares,
            den_sum=second.sum_values,
            den_sum_squares=second.sum_squares,
            num_den_sum_products=base.products * scale,
        )

    shapes = [Shape.RATE] * 4 + [Shape.MEAN] * 4 + [Shape.RATIO] * 2
    metrics = [
        Measured(
            key=f"metric_{index}",
            shape=shape,
            arms={
                number: MeasuredArm(
                    sample=sample(shape, number, 300_000),
                    covariate=_covariates(number),
                    daily=tuple(
                        DailyArm(time=STARTED + day * _DAY, sample=sample(shape, number, 10_000 * (day + 1)))
                        for day in range(30)
                    ),
                )
                for number in (1, 2, 3)
            },
        )
        for index, shape in enumerate(shapes)
    ]
    page = (experiment(3), Question(), PLAIN, metrics, _THREE, _HERE)

    seconds = []
    for _ in range(5):
        began = time.process_time()
        found = analyse(*page)
        seconds.append(time.process_time() - began)

    assert len(found.comparisons) == 20
    assert sum(len(series.points) for series in found.effect_over_time) == 600
    # About 40 ms on one core of the machine at hand; the bound leaves room for slower and busier ones.
    assert min(seconds) < 0.25


def test_analyse__control_below_zero__says_that_the_lift_reads_the_other_way_round() -> None:
    (found,) = _analyse(_of_values((-3.0, -1.5), (-2.0, -1.0))).comparisons

    assert found.difference == 0.75
    assert found.lift == pytest.approx(-1 / 3)
    assert any("below 0" in note for note in found.notes)
    (above,) = _analyse(_of_values((3.0, 1.5), (2.0, 1.0))).comparisons
    assert not any("below 0" in note for note in above.notes)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (_of_values((1.0, 2.0), (1.0, 2.0)), None),
        (_of_values((1.0,), (1.0, 2.0)), "TOO_FEW_UNITS"),
        (_of_values((), (1.0, 2.0)), "EMPTY_ARM"),
        (_of_values((-1.0, 1.0), (1.0, 2.0)), "ZERO_BASELINE"),
        (_of_values((1.0, 1.0), (2.0, 2.0)), "ZERO_VARIANCE"),
        (_rates((0, 100), (5, 100)), "ZERO_VARIANCE"),
        (_rates((5, 100), (5, 100)), None),
    ],
)
def test_analyse__detectable_effect_undefined__says_why(metric: Measured, reason: str | None) -> None:
    summary = _analyse(metric).summary

    assert summary.minimum_detectable_effect_null_reason == reason
    assert (summary.minimum_detectable_effect is None) == (reason is not None)


def test_analyse__quantile_of_users_without_values__has_reasons_everywhere() -> None:
    nothing = MeasuredArm(sample=ArmEstimate(n=9, value=None, variance=None))
    metric = Measured(key="p90", shape=Shape.QUANTILE, arms={1: nothing, 2: nothing})
    found = _analyse(metric)

    assert found.comparisons[0].bayes.null_reason == "NO_VALUES"
    assert found.summary.minimum_detectable_effect_null_reason == "NO_VALUES"
