"""Every table's definition in one place, so that Alembic and tests see all the metadata."""

from app.access import models as access
from app.assignments import models as assignments
from app.calibration import models as calibration
from app.core import models as core
from app.core.db import metadata
from app.events import models as events
from app.experiments import models as experiments
from app.metrics import models as metrics
from app.outbox import models as outbox
from app.pipeline import models as pipeline
from app.results import models as results

__all__ = [
    "access",
    "assignments",
    "calibration",
    "core",
    "events",
    "experiments",
    "metadata",
    "metrics",
    "outbox",
    "pipeline",
    "results",
]
