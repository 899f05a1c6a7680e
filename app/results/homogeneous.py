"""Whether the comparisons of a whole answer come out the same in all parts of the users. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.experiments.values import Variant
from app.results.measured import Measured, MeasuredArm
from app.results.page import Page
from app.results.part_values import HomogeneityResult
from app.results.words import NO_TEST, sentences
from app.stats.effects import Effect, Scale, effect_of
from app.stats.homogeneity import Homogeneity, cochran_q
from app.stats.multiple import adjust_p_values


def homogeneity_of(whole: Page, parts: Sequence[Sequence[Measured]]) -> tuple[HomogeneityResult, ...]:
    """Return the test of every comparison of the whole answer, in their order.

    parts: of each part of the users the metrics, in the order of the whole answer's. Users are in exactly one part.
    """
    asked = [
        (metric, variant, control, [own[index] for own in parts])
        for variant, control in whole.pairs
        for index, metric in enumerate(whole.metrics)
    ]
    found = [
        _tested(own, variant, control, whole.question.min_sample) if metric.tested else _untested(own)
        for metric, variant, control, own in asked
    ]
    holm = adjust_p_values([None if one.test is None else one.test.p_value for one in found]).adjusted
    return tuple(
        _result(metric.key, variant, control, one, by_holm)
        for (metric, variant, control, _), one, by_holm in zip(asked, found, holm, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The test of one comparison, and the places of the parts that are not in it."""

    test: Homogeneity | None
    left_out: tuple[int, ...]


def _untested(parts: Sequence[Measured]) -> _Found:
    return _Found(None, tuple(range(len(parts))))


def _tested(parts: Sequence[Measured], variant: Variant, control: Variant, least: int) -> _Found:
    """Test the differences of the parts in which both variants have users enough.

    The variances of smaller ones are not known well enough to weigh by; how many users came is no outcome, so that
    leaving them out favours nothing. It is different with parts in which both variants are without variance: everybody
    converted, or nobody did. No weight follows from that, and they are left out by their outcome.
    """
    effects = [_effect(metric.of(control.id), metric.of(variant.id), least) for metric in parts]
    return _Found(cochran_q(effects), tuple(place for place, effect in enumerate(effects) if effect.variance is None))


_TOO_SMALL = Effect(estimate=None, variance=None)


def _effect(control: MeasuredArm, treatment: MeasuredArm, least: int) -> Effect:
    c, t = control.sample.estimate(), treatment.sample.estimate()
    return _TOO_SMALL if min(c.n, t.n) < least else effect_of(c, t, Scale.ABSOLUTE)


def _result(metric: str, variant: Variant, control: Variant, found: _Found, holm: float | None) -> HomogeneityResult:
    test = found.test
    reason = NO_TEST if test is None else test.null_reason
    i_squared = None if test is None else test.i_squared
    return HomogeneityResult(
        variant=variant.key,
        control=control.key,
        metric=metric,
        parts=0 if test is None else test.groups,
        left_out=len(found.left_out),
        left_out_parts=found.left_out,
        statistic=None if test is None else test.statistic,
        df=None if test is None else test.df,
        p_value=None if test is None else test.p_value,
        p_value_holm=holm,
        i_squared_percent=None if i_squared is None else 100 * i_squared,
        null_reason=reason,
        notes=sentences([reason]),
    )
