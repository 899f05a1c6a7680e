"""What every change of an experiment leaves behind: a line in the audit log, and a message in the outbox."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.experiments import messages
from app.experiments.values import Experiment
from app.outbox.repository import OutboxRepository


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
