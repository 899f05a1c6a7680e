"""What can keep a calibration from being made or found."""

from app.core.errors import Conflict, NotFound, RateLimited


class CalibrationNotFound(NotFound):
    """The experiment has no such calibration."""

    slug = "calibration-not-found"
    title = "No such calibration"


class CalibrationEnded(Conflict):
    """It is too late to cancel it."""

    slug = "calibration-ended"
    title = "The calibration has ended"

    def __init__(self, status: str) -> None:
        super().__init__(
            f"The calibration is {status}; only a running one can be cancelled. It stays readable as it is.",
            current_status=str(status),
        )


class TooManyCalibrations(RateLimited):
    """This process works on a calibration already."""

    slug = "too-many-calibrations"
    title = "Another calibration is running"


class CannotCalibrate(Exception):
    """The control arm is nothing to calibrate by; the message says why, to people."""
