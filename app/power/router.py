"""The endpoint for planning."""

from app.access.guard import requires
from app.access.router import WITH_BODY
from app.access.scopes import Scope
from app.core import routes
from app.core.errors import Invalid
from app.core.problems import documented
from app.power.planning import Answer, Plan, complete
from app.power.schemas import PowerIn, PowerOut

router = routes.router(tags=["planning"])


@router.post("/power", dependencies=[requires(Scope.RESULTS)], responses=documented(*WITH_BODY))
async def plan_experiment(body: PowerIn) -> PowerOut:
    """Return sample size, power or minimum detectable effect, from the two others."""
    return PowerOut.of(body, _completed(body.plan()))


def _completed(plan: Plan) -> Answer:
    try:
        return complete(plan)
    except (ValueError, ArithmeticError) as error:  # The statistics name the value that is out of range.
        raise Invalid.field("body", str(error)) from error
