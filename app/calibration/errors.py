"""What can keep a calibration from being made or found."""

from app.core.errors import NotFound, RateLimited


class CalibrationNotFound(NotFound):
    """The experiment has no such calibration."""

    slug = "calibration-not-found"
    title = "No such calibration"


class TooManyCalibrations(RateLimited):
    """This process works on a calibration already."""

    slug = "too-many-calibrations"
    title = "Another calibration is running"


class CannotCalibrate(Exception):
    """The control arm is nothing to calibrate by; the message says why, to people."""
