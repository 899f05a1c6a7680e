"""The one list of routers, each under /api/v1."""

from fastapi import APIRouter

from app.access.router import router as access
from app.assignments.router import router as assignments
from app.events.router import router as events
from app.experiments.router import router as experiments
from app.pipeline.router import router as pipeline
from app.power.router import router as power
from app.results.router import router as results

ROUTERS: tuple[APIRouter, ...] = (experiments, assignments, events, results, power, access, pipeline)
