"""The one list of routers, each under /api/v1."""

from fastapi import APIRouter

from app.access.router import router as access
from app.assignments.router import router as assignments
from app.calibration.router import router as calibration
from app.diagnosis.router import router as diagnosis
from app.events.router import router as events
from app.experiments.plan_router import router as plans
from app.experiments.router import router as experiments
from app.explain.router import router as explain
from app.exports.router import router as exports
from app.metrics.router import router as metrics
from app.pipeline.router import router as pipeline
from app.power.router import router as power
from app.reports.router import router as reports
from app.results.router import router as results

ROUTERS: tuple[APIRouter, ...] = (
    experiments,
    plans,
    metrics,
    assignments,
    events,
    results,
    diagnosis,
    explain,
    exports,
    reports,
    calibration,
    power,
    access,
    pipeline,
)
