"""The ClientApp: it replies for all clients that its node hosts.

A node that was given ``partition-id`` p of ``num-partitions`` n (by a simulation, or on its command
line) hosts every client whose number, divided by n, leaves the remainder p.
"""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmaml.client.node import NodeSetup, node_setup
from fedmaml.client.replies import answer_evaluate, answer_train, error_reply
from fedmaml.client.worker_pool import WorkerPool
from fedmaml.client.worker_processes import workers_of
from fedmaml.core.errors import RefusedError
from fedmaml.core.failures import contained
from fedmaml.core.params import Params
from fedmaml.messages.evaluate import read_evaluate_request
from fedmaml.messages.roll_call import RollCallReply, write_roll_call_reply
from fedmaml.messages.train import read_train_request
from fedmaml.simulations.backends import SITE_FILE
from fedmaml.simulations.scenario import Scenario

MAX_ASKED = 10_000
"""A node of more clients does not declare how many examples they have."""

app = ClientApp()


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Report which clients this node hosts, and their statistics."""

    def answer(node: NodeSetup) -> Message:
        part, parts = _partition(context)
        hosted: dict[str, tuple[int, int, int]] = {}
        for split, numbers in node.scenario.clients().items():
            first = numbers.start + (part - numbers.start) % parts
            hosted[split] = (min(first, numbers.stop), numbers.stop, parts)
        statistics: dict[int, Params] = {}
        for client in range(*hosted["train"]):
            if not (own := node.scenario.statistics(client)):
                break  # this scenario has none; there may be a million clients
            statistics[client] = own
        most = _max_examples(node.scenario, range(*hosted["train"]))
        name = str(context.node_config.get("site", f"partition-{part}"))
        reply = RollCallReply(hosted, statistics, node.engine, name, most)
        return Message(write_roll_call_reply(reply), reply_to=message)

    return _guarded(message, context, "the roll call", answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute the updates of this node's clients."""

    def answer(node: NodeSetup) -> Message:
        request = read_train_request(message.content)
        tasks = node.tasks("train", request.round, request.shared_statistics)
        worker_pool = _worker_pool(node, context)
        return answer_train(message, request, context, node.prepared, tasks, worker_pool)

    return _guarded(message, context, "training", answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate adaptation for this node's clients."""

    def answer(node: NodeSetup) -> Message:
        request = read_evaluate_request(message.content)
        tasks = node.tasks(request.split, request.round, request.shared_statistics)
        worker_pool = _worker_pool(node, context)
        return answer_evaluate(message, request, context, node.prepared, tasks, worker_pool)

    return _guarded(message, context, "evaluation", answer)


def _guarded(
    message: Message, context: Context, stage: str, answer: Callable[[NodeSetup], Message]
) -> Message:
    """Turn any error into an error reply that names it without quoting data."""
    try:
        if SITE_FILE in context.node_config:
            raise RefusedError(
                "this site answers by its worker alone: name fedmaml.sites.app:app as the "
                "clientapp of the run, not fedmaml.client.app:app"
            )
        with contained():
            return answer(node_setup(context.run_config))
    except Exception as error:  # a node must answer, whatever its data do
        return error_reply(message, error, stage)


def _worker_pool(node: NodeSetup, context: Context) -> WorkerPool | None:
    if node.workers == 1:
        return None
    return WorkerPool(workers_of(node.workers), context.run_config, node.timeout)


def _max_examples(scenario: Scenario, clients: range) -> int:
    """Return the most examples of any of these clients; 0 if it is not known, or takes long."""
    if len(clients) > MAX_ASKED:
        return 0
    largest = 0
    for client in clients:
        if not (most := scenario.max_examples(client)):
            return 0
        largest = max(largest, most)
    return largest


def _partition(context: Context) -> tuple[int, int]:
    config = context.node_config
    return int(config.get("partition-id", 0)), int(config.get("num-partitions", 1))
