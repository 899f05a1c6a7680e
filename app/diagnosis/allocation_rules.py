"""Whether users were divided as planned: over all, by day, by what their context says, and at every look."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.diagnosis.facts import Arm, Facts
from app.diagnosis.values import NOBODY, Code, Finding, Severity, Unchecked
from app.diagnosis.wording import count, listed, p_value, percent
from app.stats.multiple import Correction, adjust_p_values
from app.stats.srm import MISMATCH_ALPHA, srm_check, srm_exact, srm_sequential

# More would fill a page, and the worst ones say it all.
_MOST_SHOWN = 10
_LOOK_FOR = (
    "Use no result before the cause is known. Compare what each variant does before the assignment or the exposure is"
    " recorded: redirects, crashes, caches, bots, and filters that not all variants pass alike."
)


@dataclass(frozen=True, slots=True)
class _Slice:
    name: dict[str, str]
    users: tuple[int, ...]


def srm(facts: Facts) -> list[Finding] | Unchecked:
    """Test all users together, as results do."""
    users = facts.users
    if isinstance(users, Unchecked):
        return users
    if sum(users) == 0:
        return NOBODY
    weights = [arm.weight for arm in facts.arms]
    test = srm_check(users, weights)
    if not test.mismatch or test.p_value is None:
        return []
    evidence = {
        "observed": _by_arm(facts.arms, users),
        "expected": dict(zip((arm.key for arm in facts.arms), test.expected, strict=True)),
        "statistic": test.statistic,
        "p_value": test.p_value,
        "exact_p_value": srm_exact(users, weights),
        "imported": facts.entrances.imported,
    }
    action = _LOOK_FOR
    if facts.entrances.imported:
        action = (
            f"{count(facts.entrances.imported, 'assignment')} were imported: check first that whoever decided them used"
            f" the same shares. {action}"
        )
    return [
        Finding(
            code=Code.SRM,
            severity=Severity.CRITICAL,
            title="The variants do not have their planned shares of users",
            evidence=evidence,
            text=f"{_furthest(facts.arms, users)} (chi-square, {p_value(test.p_value)}).",
            action=action,
        )
    ]


def srm_by_day(facts: Facts) -> list[Finding] | Unchecked:
    """Test each day's users, all days read together."""
    if isinstance(facts.days, Unchecked):
        return facts.days
    slices = [_Slice({"day": day.day.isoformat()}, day.users) for day in facts.days]
    return _by_slice(
        Code.SRM_BY_DAY,
        facts.arms,
        slices,
        title="On some days users were not divided as planned",
        noun="day",
        action=(
            "Look at what was released or changed on these days. Results with an end_date before the first of them are"
            " not touched; users of these days stay in all others, so begin anew once the cause is mended."
        ),
    )


def srm_by_attribute(facts: Facts) -> list[Finding] | Unchecked:
    """Test the users of each of the most frequent values of their context, all values read together."""
    if isinstance(facts.attributes, Unchecked):
        return facts.attributes
    slices = [_Slice({"attribute": one.name, "value": one.value}, one.users) for one in facts.attributes]
    return _by_slice(
        Code.SRM_BY_ATTRIBUTE,
        facts.arms,
        slices,
        title="Users with some attributes were not divided as planned",
        noun="value",
        action=(
            "Check the variants on exactly these platforms, countries or clients: one of them probably loses users"
            " there. Check also that the attribute is known before the assignment and not changed by the variant."
        ),
    )


def srm_at_every_look(facts: Facts) -> list[Finding] | Unchecked:
    """Weigh the evidence at the end of each day, so that it stays valid however often somebody looks."""
    if isinstance(facts.days, Unchecked):
        return facts.days
    so_far, largest, first_day = [0] * len(facts.arms), 0.0, None
    looked = None
    for day in facts.days:
        so_far = [before + new for before, new in zip(so_far, day.users, strict=True)]
        if sum(so_far) == 0:
            continue
        looked = srm_sequential(so_far, [arm.weight for arm in facts.arms], largest_log_bayes_factor=largest)
        largest = max(largest, looked.largest_log_bayes_factor or 0.0)
        if first_day is None and looked.p_value is not None and looked.p_value < MISMATCH_ALPHA:
            first_day = day.day
    if looked is None:
        return NOBODY
    if first_day is None or looked.p_value is None:
        return []
    return [
        Finding(
            code=Code.SRM_SEQUENTIAL,
            severity=Severity.CRITICAL,
            title="The division of users went wrong at some time",
            evidence={
                "p_value": looked.p_value,
                "p_value_now": looked.p_value_now,
                "log_bayes_factor": looked.log_bayes_factor,
                "first_day": first_day.isoformat(),
                "observed": _by_arm(facts.arms, so_far),
            },
            text=(
                f"The test that may be looked at every day speaks against the planned shares since {first_day}"
                f" ({p_value(looked.p_value)})."
            ),
            action=f"Look first at what happened on {first_day}. {_LOOK_FOR}",
        )
    ]


def _by_slice(
    code: Code, arms: Sequence[Arm], slices: Sequence[_Slice], *, title: str, noun: str, action: str
) -> list[Finding] | Unchecked:
    weights = [arm.weight for arm in arms]
    tested = [(one, p) for one in slices if (p := srm_exact(one.users, weights)) is not None]
    if not tested:
        return NOBODY
    holm = adjust_p_values([p for _, p in tested], method=Correction.HOLM, alpha=MISMATCH_ALPHA).adjusted
    wrong = sorted(
        ((p, one) for (one, _), p in zip(tested, holm, strict=True) if p is not None and p < MISMATCH_ALPHA),
        key=lambda found: found[0],
    )
    if not wrong:
        return []
    worst_p, worst = wrong[0]
    named = [", ".join(one.name.values()) if code is Code.SRM_BY_DAY else _as_pair(one) for _, one in wrong]
    return [
        Finding(
            code=code,
            severity=Severity.CRITICAL,
            title=title,
            evidence={
                "tested": len(tested),
                "mismatches": len(wrong),
                "worst": [{**one.name, "observed": _by_arm(arms, one.users), "p_value_holm": p} for p, one in wrong][
                    :_MOST_SHOWN
                ],
            },
            text=(
                f"{len(wrong)} of {count(len(tested), noun)} out of balance: {listed(named)}. The worst one:"
                f" {_furthest(arms, worst.users)} ({p_value(worst_p)} after Holm's correction)."
            ),
            action=action,
        )
    ]


def _as_pair(one: _Slice) -> str:
    return " = ".join(one.name.values())


def _by_arm(arms: Sequence[Arm], users: Sequence[int]) -> dict[str, int]:
    return dict(zip((arm.key for arm in arms), users, strict=True))


def _furthest(arms: Sequence[Arm], users: Sequence[int]) -> str:
    """Say which arm is furthest from its share."""
    total, weights = sum(users), sum(arm.weight for arm in arms)
    arm, got, planned = max(
        ((arm, own / total, float(arm.weight / weights)) for arm, own in zip(arms, users, strict=True)),
        key=lambda one: abs(one[1] - one[2]),
    )
    return f"{arm.key} has {percent(got)} of {count(total, 'user')} where {percent(planned)} were planned"
