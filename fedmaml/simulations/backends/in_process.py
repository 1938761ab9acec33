"""The in-process back end: a Flower Grid whose nodes all live in this process.

The same ServerApp and ClientApp as on every other back end, without Ray, sockets or copies of
Python. A node is a Flower context and a call of the ClientApp.
"""

import importlib
import logging
import uuid
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmaml import flower_internals
from fedmaml.core.failures import contained, said_of
from fedmaml.flower_internals import NodeInfo, Run
from fedmaml.simulations.backends import IN_JOURNAL
from fedmaml.simulations.backends.apps import Apps

logger = logging.getLogger("fedmaml")

RUN_ID = 1
FIRST_NODE_ID = 2  # Flower gives 1 to the server


class InProcessGrid(Grid):
    """A Grid over nodes in this process; messages are answered when they are pulled.

    Args:
        client_app: Answers the messages of all nodes.
        nodes: Number of nodes; each gets ``partition-id`` and ``num-partitions``, and
            `IN_JOURNAL`: the server keeps what they remember, see `node_states`.
        run_config: The run config of the ClientApp, ``context.run_config``.
        by_value: Whether the ClientApp takes requests that are not written (`messages.handed`), as
            fedmaml's own does.
    """

    def __init__(
        self,
        client_app: ClientApp,
        nodes: int,
        run_config: Mapping[str, str | int | float | bool],
        *,
        by_value: bool = False,
    ) -> None:
        flower_internals.become_server(RUN_ID)
        self.by_value = by_value
        self._client_app = client_app
        self._run = Run.create_empty(RUN_ID)
        self._contexts = {
            FIRST_NODE_ID + part: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE_ID + part,
                node_config={"partition-id": part, "num-partitions": nodes, IN_JOURNAL: True},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for part in range(nodes)
        }
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes."""
        return [NodeInfo(node_id=node) for node in self._contexts]

    def node_states(self) -> dict[int, RecordDict]:
        """Return node id -> what the node keeps between messages: the memories of its clients."""
        return {node: context.state for node, context in self._contexts.items()}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store messages; return their ids."""
        ids = []
        for message in messages:
            message_id = str(uuid.uuid4())
            flower_internals.set_message_id(message, message_id)
            self._waiting[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the nodes answer the messages of these ids."""
        waiting = [self._waiting.pop(name) for name in message_ids if name in self._waiting]
        return [self._answer(message) for message in waiting]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return the answers; in one process nobody is late."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            context = self._contexts[message.metadata.dst_node_id]
            with contained():
                reply = self._client_app(message=message, context=context)
        except Exception as error:  # as Flower does: an error reply, and the run goes on
            logger.exception("the ClientApp raised")
            code = flower_internals.CLIENT_APP_RAISED
            reply = Message(Error(code, said_of(error, "the ClientApp")), reply_to=message)
        flower_internals.set_message_id(reply, str(uuid.uuid4()))
        return reply


def run(apps: Apps, run_config: Mapping[str, str | int | float | bool], nodes: int) -> None:
    """Run the apps in this process; returns when the ServerApp has finished."""
    server_app: ServerApp = _load(apps.server)
    grid = InProcessGrid(_load(apps.client), nodes, run_config, by_value=True)
    context = Context(
        run_id=RUN_ID,
        node_id=flower_internals.SERVER_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )
    server_app(grid=grid, context=context)


def _load(reference: str):  # type: ignore[no-untyped-def]
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
