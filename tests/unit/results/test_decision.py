"""Who wins."""

from dataclasses import replace

import pytest

from app.results.comparison_values import Method
from app.results.contrasts import Contrast
from app.results.deciding import decide
from app.results.verdicts import Verdict

_FLAT = Contrast(method=Method.POOLED_Z, difference=0.0, lower=-0.1, upper=0.1)
_ABOVE = replace(_FLAT, difference=0.2, lower=0.1, upper=0.3)
_FAR_ABOVE = replace(_FLAT, difference=0.4, lower=0.05, upper=0.8)
_BELOW = replace(_FLAT, difference=-0.2, lower=-0.3, upper=-0.1)
_UNDEFINED = replace(_FLAT, difference=None, lower=None, upper=None)


@pytest.mark.parametrize(
    ("contrasts", "expected"),
    [
        ([_ABOVE], ("t0", Verdict.TREATMENT_WINS)),
        ([_ABOVE, _FAR_ABOVE, _BELOW], ("t1", Verdict.TREATMENT_WINS)),
        ([_FLAT, _ABOVE], ("t1", Verdict.TREATMENT_WINS)),
        ([_BELOW], ("control", Verdict.CONTROL_WINS)),
        ([_BELOW, _BELOW], ("control", Verdict.CONTROL_WINS)),
        ([_BELOW, _FLAT], (None, Verdict.UNDECIDED)),
        ([_BELOW, _UNDEFINED], (None, Verdict.UNDECIDED)),
        ([_FLAT], (None, Verdict.UNDECIDED)),
        ([replace(_FLAT, lower=0.0)], (None, Verdict.UNDECIDED)),
        ([replace(_FLAT, upper=0.0)], (None, Verdict.UNDECIDED)),
    ],
)
def test_decide__intervals_of_the_differences__name_the_winner(
    contrasts: list[Contrast], expected: tuple[str | None, Verdict]
) -> None:
    by_key = {f"t{index}": found for index, found in enumerate(contrasts)}
    assert decide(by_key, "control", srm_mismatch=False, below_min_sample=False) == expected


def test_decide__sample_ratio_is_off__names_nobody() -> None:
    verdict = decide({"t": _ABOVE}, "control", srm_mismatch=True, below_min_sample=True)
    assert verdict == (None, Verdict.SRM_MISMATCH)


def test_decide__a_variant_is_small__names_nobody() -> None:
    verdict = decide({"t": _ABOVE}, "control", srm_mismatch=False, below_min_sample=True)
    assert verdict == (None, Verdict.BELOW_MIN_SAMPLE)
