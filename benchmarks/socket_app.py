"""A Flower app of one round: FOMAML on nodes of one client each.

The server writes the traffic that it counted to the file that the run configuration names.
"""

import json
from dataclasses import asdict
from typing import Any

import torch
from flwr.clientapp import ClientApp
from flwr.common import Context, Message
from flwr.serverapp import Grid, ServerApp
from torch import nn

from fedmaml.client import evaluate_reply, train_reply
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.tasks import Batch, Task
from fedmaml.server.cohort import wait_for_nodes
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.strategies import FOMAML

NODES = 2
CLASSES = 5
SHAPES = {"mlp": (784,), "conv4": (1, 28, 28)}
STRATEGY = FOMAML(inner=GradientSteps(lr=0.1, steps=1))
server = ServerApp()
client = ClientApp()


def problem(name: str) -> Problem:
    def network() -> nn.Module:
        return MLP((784, 256, 128, 64, CLASSES)) if name == "mlp" else Conv4(1, 28, CLASSES)

    return Problem(network, cross_entropy, (ACCURACY,), classes=CLASSES)


@server.main()
def main(grid: Grid, context: Context) -> None:
    metered = MeteredGrid(grid)
    wait_for_nodes(metered, NODES, 120.0)
    network = str(context.run_config["network"])
    mine = FlowerStrategy(STRATEGY, problem(network), min_nodes=NODES)
    mine.start(metered, mine.initial_arrays, num_rounds=1)
    assert len(mine.last_round.clients) == NODES, mine.last_round
    traffic = {name: asdict(metered.traffic(name)) for name in ("train", "evaluate")}
    with open(str(context.run_config["out"]), "w") as file:
        json.dump(traffic, file)


@client.train()
def train(message: Message, context: Context) -> Message:
    return train_reply(message, context, STRATEGY, problem(_network(context)), _task(context))


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return evaluate_reply(message, context, STRATEGY, problem(_network(context)), _task(context))


def _network(context: Context) -> Any:
    return context.run_config["network"]


def _task(context: Context) -> Task:
    torch.manual_seed(int(context.node_config["partition-id"]))
    x, y = torch.randn(10, *SHAPES[_network(context)]), torch.arange(10) % CLASSES
    return Task(Batch(x[:5], y[:5]), Batch(x[5:], y[5:]))
