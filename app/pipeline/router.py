"""The endpoint for operators."""

from app.access.guard import GUARDED, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.problems import documented
from app.pipeline.schemas import PipelineOut
from app.pipeline.wiring import PipelineService

router = routes.router(tags=["system"])


@router.get("/system/pipeline", dependencies=[requires(Scope.ADMIN)], responses=documented(*GUARDED))
async def read_pipeline(pipeline: PipelineService) -> PipelineOut:
    """Say how far rows have come on their way to ClickHouse, and whether it holds all that it should.

    The answer comes within two seconds, whatever is away; what cannot be told is null, with the reason.
    """
    return PipelineOut.of(await pipeline.status())
