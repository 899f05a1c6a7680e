"""The use case of reports: an answer and the plan behind it, as a page."""

import asyncio

import structlog

from app.access.caller import Caller
from app.core.db import StoreUnavailable
from app.experiments.plan_service import PlanService
from app.experiments.registry import ExperimentRegistry
from app.experiments.sealing import PlanAccount
from app.reports.page import page
from app.reports.values import Material, Report
from app.results.reading import Reading
from app.results.service import ResultsService
from app.results.values import Question

log = structlog.get_logger()


class ReportService:
    """Makes reports. Built once at startup."""

    def __init__(self, *, registry: ExperimentRegistry, plans: PlanService, results: ResultsService) -> None:
        self._registry = registry
        self._plans = plans
        self._results = results

    async def report(self, caller: Caller, reference: str, question: Question, reading: Reading) -> Report:
        """Make the page about the answer to a question.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid: as of the results themselves.
            HistoryDropped, StoreDropped, NoSourceAvailable, StoreUnavailable: as of the results themselves.
        """
        results = await self._results.results(caller.project_id, reference, question, reading)
        experiment = self._registry.get(caller.project_id, reference)
        material = Material(experiment, results, await self._account(caller, reference))
        # Many metrics make many pictures; other requests are not to wait for these.
        return Report(f"{experiment.key}-report.html", await asyncio.to_thread(page, material))

    async def _account(self, caller: Caller, reference: str) -> PlanAccount | None:
        """Look at the sealed plan; a report is of use without."""
        try:
            return await self._plans.account(caller, reference)
        except StoreUnavailable as error:
            log.warning("report.plan_unknown", error=str(error))
            return None
