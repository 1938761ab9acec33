"""The ClientApp: answers for all clients that its node hosts.

A node that was given ``partition-id`` p of ``num-partitions`` n (by a simulation, or on its command
line) hosts the clients whose number leaves the rest p when divided by n.
"""

from collections.abc import Callable, Sequence

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmaml.client.replies import answer_evaluate, answer_train, error_reply
from fedmaml.client.workbench import Workbench, workbench
from fedmaml.core.params import Params
from fedmaml.core.tasks import TaskGroup
from fedmaml.messages.evaluate import read_evaluate_request
from fedmaml.messages.roll_call import RollCallReply, write_roll_call_reply
from fedmaml.messages.train import read_train_request
from fedmaml.simulations.scenario import SPLITS, Split

app = ClientApp()


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, and hand in their statistics."""

    def answer(bench: Workbench) -> Message:
        part, parts = _partition(context)
        hosted: dict[str, tuple[int, int, int]] = {}
        for split, numbers in bench.scenario.clients().items():
            first = numbers.start + (part - numbers.start) % parts
            hosted[split] = (min(first, numbers.stop), numbers.stop, parts)
        statistics: dict[int, Params] = {}
        for client in range(*hosted["train"]):
            if not (own := bench.scenario.statistics(client)):
                break  # this scenario has none; there may be a million clients
            statistics[client] = own
        content = write_roll_call_reply(RollCallReply(hosted, statistics))
        return Message(content, reply_to=message)

    return _guarded(message, context, "the roll call", answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute the updates of this node's clients."""

    def answer(bench: Workbench) -> Message:
        request = read_train_request(message.content)
        tasks = _tasks(bench, "train", request.round, request.common)
        return answer_train(message, request, context, bench.method, tasks)

    return _guarded(message, context, "training", answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge adaptation at this node's clients."""

    def answer(bench: Workbench) -> Message:
        request = read_evaluate_request(message.content)
        split = next(split for split in SPLITS if split == request.split)
        tasks = _tasks(bench, split, request.round, request.common)
        return answer_evaluate(message, request, context, bench.method, tasks)

    return _guarded(message, context, "evaluation", answer)


def _guarded(
    message: Message, context: Context, stage: str, answer: Callable[[Workbench], Message]
) -> Message:
    """Turn any error into an error reply that names it without quoting data."""
    try:
        return answer(workbench(context.run_config))
    except Exception as error:  # a node must answer, whatever its data do
        return error_reply(message, error, stage)


def _tasks(
    bench: Workbench, split: Split, round: int, common: Params
) -> Callable[[Sequence[int]], list[TaskGroup]]:
    return lambda clients: bench.scenario.tasks(split, clients, round, common)


def _partition(context: Context) -> tuple[int, int]:
    config = context.node_config
    return int(config.get("partition-id", 0)), int(config.get("num-partitions", 1))
