"""The endpoint for reports."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import HTMLResponse

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.db import StoreUnavailable
from app.core.problems import documented
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference
from app.reports.page import SECURITY_POLICY
from app.reports.wiring import Reports
from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.parameters import CONTEXT_PREFIX, question_of, reading_of
from app.results.reading import Reading
from app.results.values import Question

router = routes.router(tags=["results"])


@router.get(
    "/experiments/{experiment}/report",
    dependencies=[requires(Scope.RESULTS)],
    response_class=HTMLResponse,
    responses=documented(
        *GUARDED, ExperimentNotFound, HistoryDropped, StoreDropped, NoSourceAvailable, StoreUnavailable
    ),
    openapi_extra={"x-open-query-prefix": CONTEXT_PREFIX},
)
async def read_report(
    experiment: ExperimentReference,
    question: Annotated[Question, Depends(question_of)],
    reading: Annotated[Reading, Depends(reading_of)],
    caller: CurrentCaller,
    reports: Reports,
) -> HTMLResponse:
    """Show the answer as one page with charts: to read, to print, to keep. It takes the parameters of results."""
    report = await reports.report(caller, experiment, question, reading)
    headers = {
        "Content-Security-Policy": SECURITY_POLICY,
        "Content-Disposition": f'inline; filename="{report.filename}"',
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(report.html, headers=headers)
