"""Bytes of messages, as the server counts them, against bytes that crossed real sockets."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedmaml.simulations.backends import flower_deployment
from fedmaml.simulations.backends.apps import Apps

# One round of FOMAML on two nodes of one client each; the server writes down what it counted.
APP = """
import json
from dataclasses import asdict

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from torch.nn.functional import cross_entropy

from fedmaml.client import evaluate_reply, train_reply
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.tasks import Batch, Task
from fedmaml.server.cohort import wait_for_nodes
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.strategies import FOMAML

NETWORKS = {
    "mlp": (lambda: MLP((784, 256, 128, 64, 5)), (784,)),
    "conv4": (lambda: Conv4(1, 28, 5), (1, 28, 28)),
}
strategy = FOMAML(inner=GradientSteps(lr=0.1, steps=1))
server = ServerApp()
client = ClientApp()


def problem(name):
    def loss(logits, y):
        return cross_entropy(logits, y, reduction="none")

    return Problem(NETWORKS[name][0], loss, (ACCURACY,), classes=5)


@server.main()
def main(grid, context):
    grid = MeteredGrid(grid)
    wait_for_nodes(grid, 2, 120.0)
    mine = FlowerStrategy(strategy, problem(context.run_config["network"]), min_nodes=2)
    mine.start(grid, mine.initial_arrays, num_rounds=1)
    assert len(mine.last_round.clients) == 2, mine.last_round
    traffic = {name: asdict(grid.traffic(name)) for name in ("train", "evaluate")}
    with open(context.run_config["out"], "w") as file:
        json.dump(traffic, file)


def task(context):
    torch.manual_seed(int(context.node_config["partition-id"]))
    shape = NETWORKS[context.run_config["network"]][1]
    x, y = torch.randn(10, *shape), torch.arange(10) % 5
    return Task(Batch(x[:5], y[:5]), Batch(x[5:], y[5:]))


@client.train()
def train(message, context):
    mine = problem(context.run_config["network"])
    return train_reply(message, context, strategy, mine, task(context))


@client.evaluate()
def evaluate(message, context):
    mine = problem(context.run_config["network"])
    return evaluate_reply(message, context, strategy, mine, task(context))
"""
PAYLOAD = {"mlp": 4 * 242_437, "conv4": 4 * 112_261}


def deployed(network: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the app in a deployment; return what the server counted, and what the sockets carried."""
    (folder / "wire_app.py").write_text(APP)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    out = folder / "traffic.json"
    apps = Apps("wire_app:server", "wire_app:client")
    crossed = flower_deployment.run(apps, {"network": network, "out": str(out)}, 2)
    return {"counted": json.loads(out.read_text()), "socket": crossed}


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.parametrize("network", ["mlp", "conv4"])
def test_message_bytes_are_what_crosses_the_socket_but_for_framing(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = deployed(network, tmp_path, monkeypatch)
    for direction in ("down", "up"):
        counted = sum(part[f"message_bytes_{direction}"] for part in reported["counted"].values())
        carried = reported["socket"][direction]
        assert counted > 2 * PAYLOAD[network]
        assert counted == pytest.approx(carried["objects"], rel=0.001)
        assert carried["unread"] == 0
        parts = ("objects", "envelopes", "other_calls", "http")
        assert carried["total"] == sum(carried[part] for part in parts)
        assert carried["envelopes"] < 0.01 * carried["objects"]
    assert reported["socket"]["calls"]["push-object"] > 2
