"""The decision and its rule, as `docs/results.md` has it in a table."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.analysis_plan import StoppingRule
from app.results.circumstances import Circumstances, Evidence
from app.results.decision import decide_on
from app.results.verdicts import DecisionCode, DecisionResult, DecisionVerdict

_NOW = Circumstances(
    metric="conversion_rate",
    alpha=0.05,
    started=True,
    ended=False,
    srm_mismatch=False,
    share_in_two_variants=0.0,
    below_min_sample=False,
    tested=True,
    users=2000,
)
_PLANNED = replace(_NOW, planned_sample=2000, stopping_rule=StoppingRule.FIXED)
_EARLY = replace(_PLANNED, users=1999)

_GOOD = Evidence(gain=0.02, statistic=3.5, p_value=0.001, always_p_value=0.01)
_BAD = Evidence(gain=-0.02, statistic=-3.5, p_value=0.001, always_p_value=0.01)
_OPEN = Evidence(gain=0.001, statistic=0.2, p_value=0.8, always_p_value=1.0)
_ONCE = Evidence(gain=0.02, statistic=2.2, p_value=0.03, always_p_value=0.3)
_WITHIN = replace(_OPEN, margin_statistic=4.0, margin_shown=True, margin_always_shown=True)
_BEYOND = replace(_OPEN, margin_statistic=0.5, margin_shown=False, margin_always_shown=False)


def _decide(at: Circumstances, *primary: Evidence, **guardrails: Evidence) -> DecisionResult:
    """Decide about treatments t0, t1, ...; a guardrail's evidence is the same for all of them."""
    keys = [f"t{index}" for index in range(len(primary))]
    return decide_on(
        at,
        "control",
        dict(zip(keys, primary, strict=True)),
        {name: dict.fromkeys(keys, found) for name, found in guardrails.items()},
    )


def _codes(found: DecisionResult) -> set[DecisionCode]:
    return {reason.code for reason in found.reasons}


@pytest.mark.parametrize(
    ("at", "primary", "guardrails", "verdict", "variant", "code"),
    [
        # Without a plan always-valid evidence alone counts, at any time.
        (_NOW, [_GOOD], {}, "SHIP", "t0", "PRIMARY_BETTER"),
        (_NOW, [_BAD], {}, "DO_NOT_SHIP", "control", "PRIMARY_WORSE"),
        (_NOW, [_OPEN], {}, "KEEP_RUNNING", None, "PRIMARY_NOT_DECIDED"),
        (_NOW, [_ONCE], {}, "KEEP_RUNNING", None, "PRIMARY_NOT_DECIDED"),
        (replace(_NOW, ended=True), [_ONCE], {}, "DO_NOT_SHIP", "control", "ENDED"),
        (replace(_NOW, ended=True), [_GOOD], {}, "SHIP", "t0", "ENDED"),
        # A fixed plan: nothing before the planned sample, the fixed test once it is there.
        (_EARLY, [_GOOD], {}, "KEEP_RUNNING", None, "PLANNED_SAMPLE_NOT_REACHED"),
        (_EARLY, [_BAD], {}, "KEEP_RUNNING", None, "PLANNED_SAMPLE_NOT_REACHED"),
        (_PLANNED, [_ONCE], {}, "SHIP", "t0", "PLANNED_SAMPLE_REACHED"),
        (_PLANNED, [_OPEN], {}, "DO_NOT_SHIP", "control", "PRIMARY_NOT_DECIDED"),
        (replace(_EARLY, ended=True), [_GOOD], {}, "DO_NOT_SHIP", "control", "ENDED_BEFORE_PLAN"),
        # Several treatments: Holm over them, the best that may be shipped, and the control when none can be.
        (_PLANNED, [_ONCE, _OPEN], {}, "DO_NOT_SHIP", "control", "PRIMARY_NOT_DECIDED"),
        (_NOW, [_GOOD, replace(_GOOD, gain=0.05), _OPEN], {}, "SHIP", "t1", "PRIMARY_BETTER"),
        (_NOW, [_BAD, _OPEN], {}, "KEEP_RUNNING", None, "PRIMARY_WORSE"),
        (_NOW, [_BAD, _BAD], {}, "DO_NOT_SHIP", "control", "PRIMARY_WORSE"),
        # Guardrails.
        (_NOW, [_GOOD], {"g": _OPEN}, "SHIP", "t0", "GUARDRAILS_HOLD"),
        (_NOW, [_GOOD], {"g": _WITHIN}, "SHIP", "t0", "GUARDRAILS_HOLD"),
        (_NOW, [_GOOD], {"g": _BEYOND}, "KEEP_RUNNING", None, "NON_INFERIORITY_NOT_SHOWN"),
        (_PLANNED, [_GOOD], {"g": _BEYOND}, "DO_NOT_SHIP", "control", "NON_INFERIORITY_NOT_SHOWN"),
        (_NOW, [_GOOD], {"g": _BAD}, "DO_NOT_SHIP", "control", "GUARDRAIL_HARMED"),
        (_EARLY, [_OPEN], {"g": _BAD}, "DO_NOT_SHIP", "control", "GUARDRAIL_HARMED"),
        (_EARLY, [_OPEN], {"g": replace(_BAD, always_p_value=0.4)}, "KEEP_RUNNING", None, "PRIMARY_NOT_DECIDED"),
        (_PLANNED, [_GOOD], {"g": replace(_BAD, always_p_value=0.4)}, "DO_NOT_SHIP", "control", "GUARDRAIL_HARMED"),
        (replace(_NOW, guardrails_not_asked=("g",)), [_GOOD], {}, "KEEP_RUNNING", None, "GUARDRAIL_NOT_ASKED"),
        (replace(_PLANNED, guardrails_not_asked=("g",)), [_GOOD], {}, "KEEP_RUNNING", None, "GUARDRAIL_NOT_ASKED"),
        # What stands against any decision.
        (replace(_NOW, srm_mismatch=True), [_GOOD], {}, "INVALID", None, "SRM_MISMATCH"),
        (replace(_NOW, share_in_two_variants=0.011), [_GOOD], {}, "INVALID", None, "TWO_VARIANTS"),
        (replace(_NOW, share_in_two_variants=0.01), [_GOOD], {}, "SHIP", "t0", "PRIMARY_BETTER"),
        (replace(_NOW, tested=False), [_OPEN], {}, "INVALID", None, "NO_TEST"),
        (replace(_NOW, primary_not_asked=True, tested=False), [], {}, "INVALID", None, "PRIMARY_NOT_ASKED"),
        (replace(_NOW, started=False), [_OPEN], {}, "KEEP_RUNNING", None, "NOT_STARTED"),
        (replace(_NOW, below_min_sample=True), [_GOOD], {}, "KEEP_RUNNING", None, "BELOW_MIN_SAMPLE"),
        (replace(_NOW, below_min_sample=True, ended=True), [_GOOD], {}, "DO_NOT_SHIP", "control", "BELOW_MIN_SAMPLE"),
        (replace(_NOW, part_of_the_data=True), [_GOOD], {}, "SHIP", "t0", "PART_OF_THE_DATA"),
    ],
)
def test_decide_on__row_of_the_table__is_decided_so(
    at: Circumstances,
    primary: list[Evidence],
    guardrails: Mapping[str, Evidence],
    verdict: str,
    variant: str | None,
    code: str,
) -> None:
    found = _decide(at, *primary, **guardrails)

    assert (found.verdict, found.variant) == (DecisionVerdict(verdict), variant)
    assert DecisionCode(code) in _codes(found)
    assert all(reason.text.endswith(".") for reason in found.reasons)


_SEQUENTIAL = replace(_PLANNED, stopping_rule=StoppingRule.GROUP_SEQUENTIAL, looks=5)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (_NOW, "t0 is not shown to be better or worse than the control by conversion_rate so far."),
        (_PLANNED, "t0 is not shown to be better or worse than the control by conversion_rate."),
        (
            _EARLY,
            "t0 is not judged by conversion_rate yet: the plan does not do so before the planned sample is there.",
        ),
        (
            replace(_EARLY, ended=True),
            (
                "t0 was never judged by conversion_rate: the plan does not do so before the planned sample is there,"
                " and the experiment has ended."
            ),
        ),
        (
            replace(_SEQUENTIAL, users=399),
            "t0 is not judged by conversion_rate yet: the plan does not do so before the first planned look.",
        ),
        (
            replace(_SEQUENTIAL, users=400),
            "t0 is not shown to be better or worse than the control by conversion_rate so far.",
        ),
    ],
)
def test_decide_on__nothing_shown__says_whether_the_rule_has_looked(at: Circumstances, text: str) -> None:
    found = _decide(at, _OPEN)

    assert [reason.text for reason in found.reasons if reason.code is DecisionCode.PRIMARY_NOT_DECIDED] == [text]


@pytest.mark.parametrize(
    ("users", "statistic", "verdict", "look"),
    [
        (300, 9.0, "KEEP_RUNNING", 0),
        (400, 4.9, "SHIP", 1),
        (400, 4.8, "KEEP_RUNNING", 1),
        (1200, 2.7, "SHIP", 3),
        (1200, -2.7, "DO_NOT_SHIP", 3),
        (2000, 2.03, "DO_NOT_SHIP", 5),
        (2000, 2.04, "SHIP", 5),
        (9000, 2.04, "SHIP", 5),
    ],
)
def test_decide_on__group_sequential_plan__needs_the_bound_of_the_look(
    users: int, statistic: float, verdict: str, look: int
) -> None:
    at = replace(_PLANNED, users=users, stopping_rule=StoppingRule.GROUP_SEQUENTIAL, looks=5)

    found = _decide(at, replace(_OPEN, statistic=statistic, gain=statistic / 100))

    assert found.verdict is DecisionVerdict(verdict)
    assert (found.rule.stopping_rule, found.rule.look, found.rule.looks) == ("group_sequential", look, 5)
    assert (found.rule.bound is None) == (look == 0)


def test_decide_on__several_treatments_of_a_sequential_plan__share_the_error() -> None:
    at = replace(_PLANNED, stopping_rule=StoppingRule.GROUP_SEQUENTIAL, looks=5)

    one, two = _decide(at, _OPEN), _decide(at, _OPEN, _OPEN)

    assert one.rule.bound is not None
    assert two.rule.bound is not None
    assert two.rule.bound > one.rule.bound


_P = st.sampled_from([0.0, 1e-9, 0.001, 0.02, 0.05, 0.0500001, 0.3, 1.0]) | st.none()
_EVIDENCE = st.builds(
    Evidence,
    gain=st.floats(-1, 1) | st.none(),
    statistic=st.floats(-6, 6) | st.none(),
    p_value=_P,
    always_p_value=_P,
    margin_statistic=st.floats(-6, 6) | st.none(),
    margin_shown=st.booleans() | st.none(),
    margin_always_shown=st.booleans(),
)
_AT = st.builds(
    Circumstances,
    metric=st.just("m"),
    alpha=st.sampled_from([0.01, 0.05, 0.2]),
    started=st.booleans(),
    ended=st.booleans(),
    srm_mismatch=st.booleans(),
    share_in_two_variants=st.sampled_from([0.0, 0.01, 0.2]),
    below_min_sample=st.booleans(),
    tested=st.booleans(),
    users=st.integers(0, 5000),
    planned_sample=st.sampled_from([None, 1, 2000]),
    stopping_rule=st.sampled_from(list(StoppingRule)),
    looks=st.sampled_from([1, 2, 5]),
    guardrails_not_asked=st.sampled_from([(), ("x",)]),
    part_of_the_data=st.booleans(),
)
_ARMS = st.lists(_EVIDENCE, min_size=1, max_size=3)
_GUARDS = st.dictionaries(st.sampled_from(["g", "h"]), _EVIDENCE, max_size=2)


@given(_AT, _ARMS, _GUARDS)
def test_decide_on__anything__ships_only_what_every_condition_allows(
    at: Circumstances, arms: list[Evidence], guards: dict[str, Evidence]
) -> None:
    found = _decide(at, *arms, **guards)

    if found.verdict is DecisionVerdict.SHIP:
        assert found.variant is not None
        shipped = arms[int(found.variant[1:])]
        assert not at.srm_mismatch
        assert at.tested
        assert at.started
        assert not at.below_min_sample
        assert not at.guardrails_not_asked
        assert shipped.gain is not None
        assert shipped.gain > 0
    assert (found.verdict is DecisionVerdict.INVALID) == (
        at.srm_mismatch or at.share_in_two_variants > 0.01 or not at.tested
    )
    assert found.reasons
    assert (found.variant is None) == (found.verdict in {DecisionVerdict.INVALID, DecisionVerdict.KEEP_RUNNING})


def _rank(found: DecisionResult) -> int:
    return [DecisionVerdict.DO_NOT_SHIP, DecisionVerdict.KEEP_RUNNING, DecisionVerdict.SHIP].index(found.verdict)


@given(_AT, _EVIDENCE, _GUARDS, st.floats(0, 1))
def test_decide_on__more_evidence_for_the_treatment__never_decides_against_it(
    at: Circumstances, found: Evidence, guards: dict[str, Evidence], shrink: float
) -> None:
    at = replace(at, srm_mismatch=False, share_in_two_variants=0.0, tested=True)
    # The same effect, more surely better; one that looked worse, less surely worse.
    if found.gain is not None and found.gain > 0:
        more = replace(
            found,
            statistic=None if found.statistic is None else abs(found.statistic) * (1 + shrink),
            p_value=None if found.p_value is None else found.p_value * shrink,
            always_p_value=None if found.always_p_value is None else found.always_p_value * shrink,
        )
        found = replace(found, statistic=None if found.statistic is None else abs(found.statistic))
    else:
        more = replace(found, gain=0.0, statistic=0.0, p_value=1.0, always_p_value=1.0)

    assert _rank(_decide(at, more, **guards)) >= _rank(_decide(at, found, **guards))


@given(_AT, _EVIDENCE)
def test_decide_on__arms_swapped__the_same_arm_is_chosen(at: Circumstances, found: Evidence) -> None:
    mirrored = replace(
        found,
        gain=None if found.gain is None else -found.gain,
        statistic=None if found.statistic is None else -found.statistic,
    )

    one, other = _decide(at, found), _decide(at, mirrored)

    chosen = {(DecisionCode.PRIMARY_BETTER in _codes(one), DecisionCode.PRIMARY_WORSE in _codes(one))}
    assert chosen == {(DecisionCode.PRIMARY_WORSE in _codes(other), DecisionCode.PRIMARY_BETTER in _codes(other))}
    if one.verdict is DecisionVerdict.SHIP:
        # The control of the mirrored experiment is the arm that is shipped here.
        assert (other.verdict, other.variant) == (DecisionVerdict.DO_NOT_SHIP, "control")
    # A treatment that is better waits for a guardrail that was not asked for; one that is worse waits for nothing.
    waits = bool(at.guardrails_not_asked) and DecisionCode.PRIMARY_BETTER in _codes(one)
    if one.verdict in {DecisionVerdict.INVALID, DecisionVerdict.KEEP_RUNNING} and not waits:
        assert other.verdict is one.verdict


@given(_AT, _ARMS)
def test_decide_on__mismatch__never_decides(at: Circumstances, arms: list[Evidence]) -> None:
    found = _decide(replace(at, srm_mismatch=True), *arms)

    assert (found.verdict, found.variant) == (DecisionVerdict.INVALID, None)
