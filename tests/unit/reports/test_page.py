"""The page: complete, closed to every name, and sound with everything, little and nothing to show."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from app.experiments.analysis_plan import StoppingRule
from app.experiments.lifecycle import Status
from app.experiments.sealing import PlanAccount, Verdict
from app.metrics.values import Direction, Role
from app.reports.glossary import GLOSSARY
from app.reports.page import SECURITY_POLICY, page
from app.reports.style import STYLE
from app.reports.values import Material
from app.results.analysis import analyse, answer
from app.results.answer import Results
from app.results.comparison_values import NonInferiorityResult
from app.results.daily_values import EffectPoint
from app.results.measured import DailyArm, Measured, MeasuredArm, Shape
from app.results.part_values import (
    BreakdownResult,
    CohortResult,
    CohortsResult,
    HomogeneityResult,
    PoststratifiedResult,
    SegmentResult,
)
from app.results.reading import PLAIN, Pair, Reading
from app.results.values import CohortWidth, Metric, Observations, Question, Segment
from app.results.variant_values import FamilyResult
from app.stats.samples import Proportion
from tests.unit.reports.material import HERE, HOSTILE, attached, material, planned, rates
from tests.unit.results.arms import STARTED, arm, experiment, observed

# An HTML parser closes these by itself.
_VOID = {"meta", "br"}
_ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "div", "h1", "h2", "h3", "p"),
    *("ul", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "code", "small", "strong"),
    *("bdi", "figure", "svg", "desc", "text", "line", "polyline", "polygon", "rect", "path", "defs", "pattern"),
    *("g", "clippath"),
}
_REFERENCES = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "style"}


class _Reader(HTMLParser):
    """Reads a page, and fails where elements do not close in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words)).replace("\N{NO-BREAK SPACE}", " ")

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def _check(html: str) -> _Reader:
    """Check what has to be true of every report."""
    reader = _read(html)
    assert {tag for tag, _ in reader.elements} <= _ALLOWED
    for tag, attributes in reader.elements:
        assert not {name for name in attributes if name.startswith("on")}, (tag, attributes)
        assert not _REFERENCES & set(attributes), (tag, attributes)
    assert not re.search(r"(nan|inf)[\s,\"<%]", html)
    assert "None" not in reader.text
    # What points to an element finds it, and no two have the same id.
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in reader.of("svg"):
        assert svg["role"] == "img"
        assert {*str(svg["aria-labelledby"]).split()} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    assert not re.search(r"url\((?!#)|@import|https?://|javascript:", html)
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(reader.of("caption")) == len(reader.of("table"))
    assert all(head.get("scope") in {"row", "col"} for head in reader.of("th"))
    return reader


def test_page__everything_there_is__shows_it_all() -> None:
    made = material()
    html = page(made)
    reader = _check(html)

    assert html.startswith("<!DOCTYPE html>")
    assert {"http-equiv": "Content-Security-Policy", "content": SECURITY_POLICY} in reader.of("meta")
    for said in (
        *("Keep running", "PRIMARY_BETTER", "A shorter form lets more people finish", "6,000 users of all variants"),
        *("Verified: the plan is as it was sealed", "Lawfully changed since: traffic_pct", "0123456789abcdef"),
        *("The shares are as planned", "OVERRIDE", "TWO_VARIANTS", "exploratory, so it proves nothing"),
        *("CUPED, variance", "p, Holm", "p, BH", "always valid", "Chance to be better", "Expected loss if shipped"),
        *("clickhouse, postgresql", "2026-03-21 23:59:58 UTC", "Hash of the question", "NOT_STORED", "Guardrail:"),
        *("Less is better", "Prior of shares: Beta(1, 1)", "Prior of other differences: flat", "EUR"),
    ):
        assert said in reader.text, said
    assert made.results.provenance.query_hash in reader.text
    for word, meaning in GLOSSARY:
        assert word in reader.text
        assert meaning.split(".")[0] in reader.text
    # One of intervals, one of exposures, and for each tested comparison one over time and one of the posterior.
    assert len(reader.of("svg")) == 2 + 2 * 6


def test_page__long_texts_beside_a_label__leave_it_the_width_of_its_words() -> None:
    # What may break anywhere has no width of its own in a table: without these, "Hypothesis" had one of four letters.
    for rule in ("tbody th", "td.text"):
        (found,) = re.findall(rf"^{re.escape(rule)} {{([^}}]*)}}", STYLE, re.MULTILINE)
        assert "overflow-wrap: anywhere" in found
        (width,) = re.findall(r"min-width: (\d+)rem", found)
        assert int(width) >= 7


def test_page__no_planned_sample__is_decided_by_the_same_rule_wherever_it_stands() -> None:
    plan = replace(planned().plan, sample_size=None, stopping_rule=StoppingRule.FIXED)
    text = _check(page(material(plan=plan))).text
    assert "Decided at any time, by always-valid intervals" in text
    assert "at any time, by always-valid intervals, as no sample was planned" in text
    assert "once, at the planned sample size" not in text
    asked = _check(page(material(plan=plan, reading=replace(PLAIN, planned_sample=4000)))).text
    assert "at any time" not in asked
    assert "for which this report was asked with a sample of 4,000 users" in asked


def test_page__numbers__are_those_of_the_answer() -> None:
    made = material(2)
    text = _check(page(made)).text
    (found,) = [one for one in made.results.comparisons if one.metric == "signup"]
    assert found.difference is not None
    assert found.difference_ci_lower is not None
    assert found.lift is not None
    assert f"+{100 * found.difference:.3f} pp" in text
    assert f"+{100 * found.difference_ci_lower:.3f} to" in text
    assert f"+{100 * found.lift:.2f} %" in text
    control = made.results.variants[0].metrics["signup"]
    assert control.value is not None
    assert f"{100 * control.value:.4g} %" in text


def _stratified(results: Results) -> tuple[PoststratifiedResult, ...]:
    """Return what the parts might say of the first comparison, and of one without an answer."""
    first, second = results.comparisons[:2]
    return tuple(
        PoststratifiedResult(
            variant=one.variant,
            control=one.control,
            metric=one.metric,
            strata=3,
            difference=0.0625 if reason is None else None,
            difference_ci_lower=0.0375 if reason is None else None,
            difference_ci_upper=0.0875 if reason is None else None,
            lift=0.3125 if reason is None else None,
            lift_ci_lower=0.2 if reason is None else None,
            lift_ci_upper=0.4 if reason is None else None,
            statistic=4.9 if reason is None else None,
            p_value=0.0123 if reason is None else None,
            variance_reduction_percent=17.25 if reason is None else None,
            null_reason=reason,
            notes=() if reason is None else ("A part lacks a variant.",),
        )
        for one, reason in ((first, None), (second, "EMPTY_ARM"))
    )


def _same(results: Results) -> tuple[HomogeneityResult, ...]:
    """Return whether the first two comparisons are the same in all parts: one that is not, and one nobody can tell."""
    return tuple(
        HomogeneityResult(
            variant=one.variant,
            control=one.control,
            metric=one.metric,
            parts=2,
            left_out=2,
            left_out_parts=(0, 2),
            statistic=31.25 if reason is None else None,
            df=8 if reason is None else None,
            p_value=0.0321 if reason is None else None,
            p_value_holm=0.0432 if reason is None else None,
            i_squared_percent=74.4 if reason is None else None,
            null_reason=reason,
            notes=() if reason is None else ("Too few parts.",),
        )
        for one, reason in zip(results.comparisons, (None, "TOO_FEW_GROUPS"), strict=False)
    )


def test_page__cohorts__have_a_picture_a_table_and_the_test_that_they_are_alike() -> None:
    made = material(question=Question(min_sample=1))
    days = [STARTED + timedelta(days=number) for number in range(3)]
    cohorts = tuple(
        CohortResult(
            since=since,
            until=days[0] if since is None else since + timedelta(days=1),
            is_rest=since is None,
            users=4321,
            srm=made.results.srm,
            variants=made.results.variants,
            comparisons=made.results.comparisons,
        )
        for since in (None, *days)
    )
    found = CohortsResult(
        width=CohortWidth.DAY,
        cohorts=cohorts,
        family=FamilyResult(comparisons=9, tested=9, text="All cohorts together."),
        homogeneity=_same(made.results),
        poststratified=_stratified(made.results),
    )
    reader = _check(page(replace(made, results=replace(made.results, cohorts=found))))
    all_in = tuple(replace(one, left_out=0, left_out_parts=()) for one in found.homogeneity)
    with_all = replace(made, results=replace(made.results, cohorts=replace(found, homogeneity=all_in)))

    tested = sum(one.difference_ci_lower is not None for one in made.results.comparisons)
    assert len(reader.of("svg")) == len(_read(page(made)).of("svg")) + tested
    for said in ("By the day of exposure", "Effect by day of exposure: signup", "all before, together"):
        assert said in reader.text
    for said in ("2026-03-01", "before 2026-03-01", "4,321", "All cohorts together.", "31.25", "0.0321", "74.4 %"):
        assert said in reader.text
    assert "Too few parts." in reader.text
    # Of two comparisons the rest and the second day are not in the test. Marks say so by being hollow, and words.
    assert _marks(reader) == {
        ("square", "mark s0"): 2 * (1 + 1),
        ("diamond", "mark s0"): 2,
        ("diamond", "point"): 6 + 4,
    }
    assert reader.words.count("not in the test") == 2 * 2
    assert reader.words.count("hollow: not in the test") == 2
    assert ", not in the test. 2026-03-01: " in reader.text
    assert "Left out are parts whose difference has no variance" in reader.text
    whole = _check(page(with_all))
    assert _marks(whole) == {("diamond", "point"): 6 + 6}
    assert "not in the test" not in whole.text


def _marks(reader: _Reader) -> Counter[tuple[str, str | None]]:
    """Count the marks of charts of cohorts, without the squares that every chart may have."""
    squares = [("square", one["class"]) for one in reader.of("rect") if one.get("class") == "mark s0"]
    paths = [one for one in reader.of("path") if str(one["d"]).endswith("l5 -5l5 5l-5 5z")]
    return Counter([*squares, *(("diamond", one["class"]) for one in paths)])


@pytest.mark.parametrize("users", [0, 9])
def test_page__cohorts_without_anything_to_draw__have_no_picture(users: int) -> None:
    question = Question(cohorts=CohortWidth.WEEK, include_ci=False)
    seen = observed(arm(users, users // 3), arm(users, users // 2))
    segments = (Segment(None, is_rest=False, observations=seen, since=STARTED),) if users else ()
    found = answer(experiment(2), question, replace(seen, segments=segments), HERE)
    reader = _check(page(Material(experiment(2), found, None)))

    assert "By the week of exposure" in reader.text
    assert ("week of 2026-03-01" in reader.text) == bool(segments)
    assert "Effect by week" not in reader.text


def test_page__parts_as_strata__show_the_estimate_of_all_users_beside_its_reduction() -> None:
    made = material()
    family = FamilyResult(comparisons=0, tested=0, text="Of nothing.")
    broken_down = BreakdownResult(
        attribute="country", segments=(), family=family, homogeneity=(), poststratified=_stratified(made.results)
    )
    text = _check(page(replace(made, results=replace(made.results, breakdown=broken_down)))).text

    assert "signup of all users, with the parts as strata" in text
    assert "+6.25 pp" in text
    assert "+3.75 to +8.75 pp" in text
    assert "+31.25 %" in text
    assert "0.0123" in text
    assert "17.25 %" in text
    assert "A part lacks a variant." in text
    # A total has no such estimate, and no table for it.
    assert "unique_users of all users" not in text


def _hostile() -> Material:
    """Return a report in which every text that anybody else writes tries to break out."""
    made = material()
    variants = tuple(replace(variant, name=HOSTILE) for variant in made.experiment.variants)
    metrics = (
        attached("signup", Role.PRIMARY, name=HOSTILE, unit=HOSTILE),
        attached("refunds", Role.GUARDRAIL, name=HOSTILE, unit=HOSTILE, direction=Direction.DOWN, margin=0.02),
    )
    plan = replace(made.experiment.plan, hypothesis=HOSTILE)
    hostile = replace(made.experiment, name=HOSTILE, description=HOSTILE, variants=variants, metrics=metrics, plan=plan)
    definitions = tuple(replace(one, name=HOSTILE, unit=HOSTILE, notes=(HOSTILE,)) for one in made.results.definitions)
    metadata = replace(made.results.metadata, event_types=(HOSTILE,), context={HOSTILE: HOSTILE})
    results = replace(made.results, definitions=definitions, metadata=metadata)
    parts = tuple(
        SegmentResult(
            value=value,
            is_rest=is_rest,
            users=7,
            srm=results.srm,
            variants=results.variants,
            comparisons=results.comparisons,
        )
        for value, is_rest in ((HOSTILE, False), (None, True), (None, False))
    )
    family = FamilyResult(comparisons=9, tested=9, text="All of them.")
    broken_down = BreakdownResult(
        attribute=HOSTILE,
        segments=parts,
        family=family,
        homogeneity=_same(results),
        poststratified=_stratified(results),
    )
    results = replace(results, breakdown=broken_down)
    account = PlanAccount(HOSTILE, hostile.seal, Verdict((HOSTILE,), (HOSTILE,)))
    return Material(hostile, results, account)


def test_page__hostile_texts__stay_texts() -> None:
    html = page(_hostile())
    reader = _check(html)
    assert HOSTILE.replace("\N{NO-BREAK SPACE}", " ") in reader.text
    assert "<script" not in html
    assert "<img" not in html
    assert "onerror=" not in re.sub(r"&[a-z#0-9]+;", "", html).replace("onerror=alert", "")
    assert reader.of("script") == reader.of("img") == []
    # As many pictures as without: none has come, and none was closed too early.
    assert len(reader.of("svg")) == len(_read(page(material())).of("svg"))


def _empty(**fields: Any) -> Iterator[tuple[str, Material]]:
    nobody = experiment(2, **{"started_at": None, "status": Status.DRAFT, **fields})
    question = Question(metrics=tuple(Metric))
    yield "draft", Material(nobody, answer(nobody, question, Observations({}), HERE), PlanAccount("{}", None, None))
    one = observed(arm(1), arm(1, 1))
    yield "one user", Material(nobody, answer(nobody, question, one, HERE), None)
    same = observed(arm(500, 500), arm(500, 500))
    yield "no variance", Material(nobody, answer(nobody, question, same, HERE), None)
    none = observed(arm(500), arm(500, 3))
    yield "nothing in the control", Material(nobody, answer(nobody, question, none, HERE), None)
    skewed = observed(arm(900, 90, values=(1e308, 1e-308)), arm(100, 50, values=(3.0,)))
    yield "mismatch", Material(nobody, answer(nobody, question, skewed, HERE), None)
    without = Question(metrics=tuple(Metric), include_ci=False, with_series=False)
    yield "no intervals", Material(nobody, answer(nobody, without, skewed, HERE), None)


@pytest.mark.parametrize(("name", "made"), list(_empty()), ids=lambda value: value if isinstance(value, str) else "")
def test_page__little_to_show__says_so_and_breaks_nothing(name: str, made: Material) -> None:
    text = _check(page(made)).text
    if name == "draft":
        assert "Nobody has been exposed yet" in text
        assert "Not sealed" in text
        assert "NOT_STARTED" in text
    elif name == "mismatch":
        assert "Sample ratio mismatch (p < 0.0001)" in text
        assert "Cannot be looked at now" in text


def test_page__broken_seal__is_loud() -> None:
    made = material()
    broken = PlanAccount("{}", made.experiment.seal, Verdict(("seed is not what was sealed",), ()))
    text = _check(page(replace(made, account=broken))).text
    assert "BROKEN: seed is not what was sealed" in text
    assert "Verified" not in text


def test_page__one_day_alone__has_its_picture() -> None:
    found = planned(2, metrics=())
    arms = {
        number: MeasuredArm(
            sample=Proportion(20 + number, 100),
            daily=(DailyArm(time=STARTED, sample=Proportion(20 + number, 100)),),
        )
        for number in (1, 2)
    }
    results = analyse(
        found,
        Question(),
        PLAIN,
        [Measured(key="signup", shape=Shape.RATE, arms=arms)],
        observed(arm(100), arm(100)),
        HERE,
    )
    _check(page(Material(found, results, None)))


def _with_gaps(made: Material, reasons: Mapping[int, str]) -> Material:
    """Return a report whose first series lacks the difference on some days."""
    first, *others = made.results.effect_over_time
    points = tuple(
        EffectPoint(
            time=point.time,
            difference=None,
            ci_lower=None,
            ci_upper=None,
            always_valid_ci_lower=None,
            always_valid_ci_upper=None,
            n_variant=point.n_variant,
            n_control=point.n_control,
            null_reason=reasons[day],
        )
        if day in reasons
        else point
        for day, point in enumerate(first.points)
    )
    return replace(made, results=replace(made.results, effect_over_time=(replace(first, points=points), *others)))


def _drawn(reader: _Reader) -> Counter[str | None]:
    return Counter(one.get("class") for name in ("polyline", "polygon", "path") for one in reader.of(name))


def test_page__days_without_a_difference__interrupt_the_picture_and_say_why() -> None:
    made = material(2)
    lost = {0: "EMPTY_ARM", 1: "EMPTY_ARM", 9: "PRECISION_LOST", 11: "PRECISION_LOST"}

    plain, reader = _check(page(made)), _check(page(_with_gaps(made, lost)))

    # The days from the third to the ninth and from the thirteenth on; the eleventh stands by itself.
    assert _drawn(reader) - _drawn(plain) == {
        "curve": 1,
        "band always": 1,
        "edge always": 2,
        "band fixed": 1,
        "edge fixed": 2,
        "cross": 4 + 1,
    }
    marks = [[one for one in read.of("rect") if one.get("class") == "point"] for read in (plain, reader)]
    assert len(marks[0]) - len(marks[1]) == len(lost)
    for said in (
        "2 days (the first 2026-03-01, the last 2026-03-02) without a difference: A variant has no exposed user yet.",
        "2 days (the first 2026-03-10, the last 2026-03-12) without a difference: One value is so far beyond all",
    ):
        assert said in reader.text
        assert said not in plain.text
    assert "no difference" in reader.words
    assert "no difference" not in plain.words


def test_page__series_that_ends_without_a_difference__says_which_day_the_last_number_is_of() -> None:
    text = _check(page(_with_gaps(material(2), {20: "PRECISION_LOST"}))).text

    assert "One day (2026-03-21) without a difference" in text
    assert "At the end there is none; on 2026-03-20 00:00:00 UTC the difference is" in text


def test_page__series_without_any_difference__says_why() -> None:
    text = _check(page(_with_gaps(material(2), dict.fromkeys(range(21), "TOO_FEW_UNITS")))).text

    assert "signup : Too few users: a variance needs two in each variant at least" in text


def test_page__day_without_an_interval_alone__keeps_its_difference_and_says_what_lacks() -> None:
    made = material(2)
    first, *others = made.results.effect_over_time
    odd = replace(first.points[5], always_valid_ci_lower=None, always_valid_ci_upper=None, null_reason="ZERO_VARIANCE")
    points = (*first.points[:5], odd, *first.points[6:])
    series = (replace(first, points=points), *others)

    plain, reader = (
        _check(page(one)) for one in (made, replace(made, results=replace(made.results, effect_over_time=series)))
    )

    assert _drawn(reader) - _drawn(plain) == {"band always": 1, "edge always": 2}
    assert "One day (2026-03-06) with a difference but not both intervals: Within the compared" in reader.text


def test_page__many_metrics_and_variants__leaves_pictures_out_and_says_so() -> None:
    found = planned(5, metrics=())
    metrics = [rates(f"metric_{number}", (0.2, 0.21, 0.2, 0.19, 0.2), users=600) for number in range(20)]
    seen = observed(*(arm(600) for _ in range(5)))
    reader = _check(page(Material(found, analyse(found, Question(), PLAIN, metrics, seen, HERE), None)))
    # Of the effects over time, and of the posteriors.
    assert reader.text.count("20 more pictures are left out") == 2
    assert len(reader.of("svg")) == 1 + 60 + 60


def test_page__pairs_and_priors__are_named() -> None:
    reading = Reading(
        compare=(Pair("treatment_2", "treatment_1"),),
        prior_alpha=2,
        prior_beta=8,
        prior_lift_mean=0,
        prior_lift_std=0.1,
    )
    text = _check(page(material(reading=reading))).text
    assert "treatment_2 against treatment_1" in text
    assert "Lift over whom each is compared with, percent" in text
    assert "Prior of shares: Beta(2, 8)." in text
    assert "normal, mean 0, standard deviation 0.1" in text


def test_page__funnel__shows_how_many_got_how_far() -> None:
    made = material(2)
    variants = tuple(
        replace(
            variant,
            metrics={
                key: replace(found, steps=(1200, 800 + 100 * number) if key == "signup" else None)
                for key, found in variant.metrics.items()
            },
        )
        for number, variant in enumerate(made.results.variants)
    )
    text = _check(page(replace(made, results=replace(made.results, variants=variants)))).text
    assert "signup: users who got as far" in text
    assert "Step 2" in text
    assert "1,200 900" in text


def test_page__parts_of_the_users__have_their_own_numbers() -> None:
    reader = _check(page(_hostile()))
    text = reader.text
    assert reader.words.count("not in the test") == 2 * 2
    assert "Left out are parts with fewer than 100 users of one of the two variants, and those whose" in text
    assert "Pictures show" not in text
    assert "signup in each part of the users" in text
    assert "all other values" in text
    assert "without a value" in text


def test_page__question_narrowed__says_to_what() -> None:
    question = Question(start=STARTED, end=STARTED + timedelta(days=3), event_types=("buy",), include_overrides=True)
    text = _check(page(material(question=question))).text
    assert "from 2026-03-01 00:00:00 UTC to before 2026-03-04 00:00:00 UTC" in text
    assert "buy" in text
    assert "users with a forced variant are included" in text


def test_page__margin_that_cannot_be_tested__says_so_and_not_that_more_users_would_help() -> None:
    made = material(2)
    comparisons = tuple(
        replace(
            found,
            noninferiority=NonInferiorityResult(
                margin=0.2, statistic=None, p_value=None, shown=False, null_reason="NON_POSITIVE_VALUE"
            ),
        )
        for found in made.results.comparisons
    )

    text = _check(page(replace(made, results=replace(made.results, comparisons=comparisons)))).text

    assert "cannot be compared by a margin of 20 %: The control's value is not above 0" in text
    assert "could still be worse" not in text
