"""What every change of an experiment leaves behind: a line in the audit log, and a message in the outbox.

Of the lines, that of the start is read again.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.experiments import messages
from app.experiments.lifecycle import Status
from app.experiments.sealing import NotedStart
from app.experiments.values import Experiment
from app.outbox.repository import OutboxRepository

_CREATED, _STARTED = "experiment.created", "experiment.start"


async def record_change(
    connection: AsyncConnection,
    caller: Caller,
    action: str,
    experiment: Experiment,
    details: Mapping[str, Any],
) -> None:
    """Audit and announce a change, in the transaction that makes it; `experiment` is as it stands afterwards."""
    await AuditRepository(connection).append(
        project_id=experiment.project_id,
        actor=caller.actor,
        request_id=caller.request_id,
        action=action,
        subject=f"experiment:{experiment.id}",
        details={"version": experiment.version, **details},
    )
    await OutboxRepository(connection).append(
        aggregatetype=messages.AGGREGATE,
        aggregateid=str(experiment.id),
        type_=messages.CHANGED,
        payload=messages.experiment_changed(experiment),
    )


async def noted_start(connection: AsyncConnection, experiment: Experiment) -> NotedStart | None:
    """Return what the audit log has about the start; `None` if it has nothing, or the experiment is not started."""
    audit = AuditRepository(connection)
    entries = await audit.details_of(experiment.project_id, f"experiment:{experiment.id}", {_CREATED, _STARTED})
    for action, details in entries:
        # Whoever can write into the log past its chain can write anything.
        said = details if isinstance(details, dict) else {}
        # An experiment may be created running; that is its start, then.
        if action == _STARTED or said.get("status") == Status.RUNNING:
            plan_hash = said.get("plan_hash")
            return NotedStart(None if plan_hash is None else str(plan_hash))
    return None
