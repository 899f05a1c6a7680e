"""The endpoint for exports."""

from typing import Annotated, assert_never

from fastapi import Depends, Query, Request
from starlette.responses import Response

from app.access.caller import Caller, CurrentCaller
from app.access.guard import GUARDED, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.problems import documented
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference
from app.exports.download import Download
from app.exports.errors import TooManyExports
from app.exports.parameters import refuse_parameters_of_others
from app.exports.service import ExportService
from app.exports.values import Export, ExportFormat, ExportOf
from app.exports.wiring import Exports
from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.parameters import CONTEXT_PREFIX, question_of, reading_of
from app.results.reading import Reading
from app.results.values import Question

router = routes.router(tags=["exports"])

# A table's rows have the columns that docs/export.md lists.
_TABLE = {"type": "string", "format": "binary"}
_ANSWER_OR_ROWS = {
    "anyOf": [
        {"$ref": "#/components/schemas/ResultsOut"},
        {"type": "array", "items": {"type": "object"}, "description": "Rows of assignments or events."},
    ]
}
_FILE = {
    "description": "The file, sent while it is made.",
    "content": {
        form.media_type: {"schema": _ANSWER_OR_ROWS if form is ExportFormat.JSON else _TABLE} for form in ExportFormat
    },
}


@router.get(
    "/experiments/{experiment}/export",
    dependencies=[requires(Scope.RESULTS)],
    response_class=Response,
    responses={
        200: _FILE,
        **documented(*GUARDED, ExperimentNotFound, HistoryDropped, StoreDropped, NoSourceAvailable, TooManyExports),
    },
    openapi_extra={"x-open-query-prefix": CONTEXT_PREFIX},
)
async def export(
    request: Request,
    experiment: ExperimentReference,
    question: Annotated[Question, Depends(question_of)],
    reading: Annotated[Reading, Depends(reading_of)],
    caller: CurrentCaller,
    exports: Exports,
    form: Annotated[ExportFormat, Query(alias="format", description="The form of the file.")] = ExportFormat.CSV,
    of: Annotated[
        ExportOf,
        Query(
            description="`results` takes the parameters of results, as a table those that a table has a place for;"
            " `events` those that say which events, and"
            " counted; `assignments` takes none."
        ),
    ] = ExportOf.RESULTS,
    *,
    counted: Annotated[
        bool, Query(description="Of events: those that count for the experiment, or all of its users.")
    ] = True,
) -> Response:
    """Download results, assignments or events as a file. A download that ends too early is cut, never just short."""
    refuse_parameters_of_others(request, of, form, question, counted=counted)
    made = await _choose(exports, caller, experiment, form, of, question, reading, counted=counted)
    headers = {
        "Content-Disposition": f'attachment; filename="{made.filename}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Download(made.produce, media_type=made.media_type, headers=headers)


async def _choose(
    exports: ExportService,
    caller: Caller,
    experiment: str,
    form: ExportFormat,
    of: ExportOf,
    question: Question,
    reading: Reading,
    *,
    counted: bool,
) -> Export:
    match of:
        case ExportOf.RESULTS:
            return await exports.results(caller.project_id, experiment, form, question, reading)
        case ExportOf.ASSIGNMENTS:
            return await exports.assignments(caller.project_id, experiment, form)
        case ExportOf.EVENTS:
            return await exports.events(caller.project_id, experiment, form, question, counted=counted)
        case _:
            assert_never(of)
