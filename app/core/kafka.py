"""Kafka's client for members of groups, with one omission made good."""

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import consumer as client
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest


class _HeedfulCoordinator(GroupCoordinator):  # type: ignore[misc]  # The client leaves it untyped.
    """Heeds an error about the whole group, where the client sees an answer without offsets.

    A broker that has just started says for a while that it is still loading its groups. Taken for "nothing was ever
    committed", that sends a consumer back to the earliest offsets.
    Source: Kafka protocol guide, OffsetFetch: from version 2 on, such an error stands beside an empty list.
    """

    async def _send_req(self, request: Any) -> Any:  # noqa: ANN401  # The client leaves them untyped.
        answer = await super()._send_req(request)
        if isinstance(request, OffsetFetchRequest) and (code := getattr(answer, "error_code", 0)):
            error = for_code(code)
            if error is NotCoordinatorForGroupError:
                self.coordinator_dead()
            raise error(self.group_id)
        return answer


# The client makes its coordinator by this name, and takes none from outside.
client.GroupCoordinator = _HeedfulCoordinator

GroupConsumer = AIOKafkaConsumer
