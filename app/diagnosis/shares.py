"""Whether counts of users have the shares of the plan, by a test that holds for any number of users."""

from collections.abc import Sequence
from fractions import Fraction

from scipy import special

from app.diagnosis.facts import Arm


def exact_p_value(users: Sequence[int], arms: Sequence[Arm]) -> float | None:
    """Return the p-value of counts by arm against the plan's weights; `None` where there is nothing to test.

    Each arm is tested against all others together, two-sided by the doubled smaller tail of the binomial, and the
    smallest p-value is multiplied by the number of tests. With few users, or small arms, chi-square says far too
    often that something is wrong; this never does so more often than it says.

    Source: Clopper, Pearson, "The use of confidence or fiducial limits" (Biometrika 26, 1934), for the tails;
    Bonferroni's inequality for the arms.
    """
    total, weights = sum(users), sum(Fraction(arm.weight) for arm in arms)
    if total == 0 or len(arms) < 2 or weights == 0:
        return None
    tested = len(arms) if len(arms) > 2 else 1
    pairs = list(zip(users, arms, strict=True))[:tested]
    smallest = min(_two_sided(count, total, float(Fraction(arm.weight) / weights)) for count, arm in pairs)
    return min(1.0, tested * smallest)


def _two_sided(count: int, total: int, share: float) -> float:
    if share in {0.0, 1.0}:
        return 1.0 if count == round(share * total) else 0.0
    at_most = float(special.bdtr(count, total, share))
    at_least = 1.0 if count == 0 else float(special.bdtrc(count - 1, total, share))
    return min(1.0, 2.0 * min(at_most, at_least))
