"""The endpoint for planning."""

from app.access.guard import WITH_BODY, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.problems import documented
from app.power.planning import complete
from app.power.schemas import PowerIn, PowerOut

router = routes.router(tags=["planning"])


@router.post("/power", dependencies=[requires(Scope.RESULTS)], responses=documented(*WITH_BODY))
async def plan_experiment(body: PowerIn) -> PowerOut:
    """Return sample size, power or minimum detectable effect, from the two others."""
    plan = body.plan()
    return PowerOut.of(body, plan, complete(plan))
