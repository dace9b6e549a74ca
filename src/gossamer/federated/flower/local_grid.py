"""Flower's grid without a network: nodes are in this process, and learn one after the other."""

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

# The one thing of Flower's that is not public: messages want to know in whose name they are made.
from flwr.supercore.task_identity import TaskIdentity

_ID = 1


class LocalGrid(Grid):
    """Hands each message to the app at once."""

    def __init__(self, app: ClientApp, nodes: Iterable[Mapping[str, Any]]) -> None:
        """`nodes` are the configurations of nodes, whose ids count from 1."""
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _ID
        self._app = app
        self._contexts = {
            number: Context(_ID, number, dict(config), RecordDict(), {})
            for number, config in enumerate(nodes, start=1)
        }
        self._sent = 0
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError("a local grid is one run")

    @property
    def run(self) -> Any:
        raise NotImplementedError("a local grid has no record of its run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            reply = self._answer(message)
            ids.append(reply.metadata.reply_to_message_id)
            self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies[name] for name in message_ids]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        # As Flower's own grids do, where senders find it too.
        self._sent += 1
        message.metadata.__dict__["_message_id"] = f"message-{self._sent}"
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(message, context)
        except Exception as error:
            # As a supernode does: what happens to one node is told, and others go on.
            why = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, why), reply_to=message)
