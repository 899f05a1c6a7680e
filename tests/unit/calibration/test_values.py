"""Results of calibrations as they are kept."""

import msgspec

from app.calibration.schemas import CalibrationResultOut
from app.calibration.values import CalibrationResult, Wanted
from app.results.values import Source

_OF_AN_EARLIER_RELEASE = b"""{"users": 100, "units": 100, "alpha": 0.05, "metrics": [{"metric": "orders", "version": 1,
"value": 1.5, "resplits": 100, "undefined": 0, "false_positives": 4, "false_positive_rate": 0.04,
"always_valid_false_positive_rate": 0.0, "lower": 0.0, "upper": 0.11, "inside": true, "p_value_histogram": [100],
"ks_p_value": 0.5, "null_reason": null}]}"""


def test_result__of_an_earlier_release__is_still_shown() -> None:
    result = msgspec.json.decode(_OF_AN_EARLIER_RELEASE, type=CalibrationResult)
    shown = CalibrationResultOut.model_validate(result)

    assert (shown.source, shown.complete_until) == (Source.HOT, None)
    assert (shown.metrics[0].false_positive_rate, shown.metrics[0].adjusted) == (0.04, None)
    assert shown.metrics[0].false_positive_rate_ci_lower is None


def test_wanted__of_an_earlier_release__is_still_read() -> None:
    wanted = msgspec.json.decode(b'{"resplits": 500, "metrics": ["orders"], "seed": 3, "alpha": 0.05}', type=Wanted)

    assert (wanted.resplits, wanted.cuped_days, wanted.split_by) == (500, None, None)
