"""Flower's own simulation: Ray, one client per node, a plain PyTorch loop in the ClientApp.

A process of its own reads from a file which round is wanted, computes it several times, and
replaces the file by the mean update and each repetition's time, of which the first, which starts
the actors, does not count. Processor time is that of the process and all its descendants. It runs
apart from the other contenders, since Ray's processes would disturb them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine.rounds import LR, NotInstalledError, RefusedError, Round, Seconds, flat

_REPETITIONS = 3


def measure(name: str, round_: Round) -> tuple[Tensor, Seconds]:
    """Compute a round by Flower's simulation in a process of its own.

    Args:
        name: Of the workload; see `benchmarks.engine.cases.WORKLOADS`.
        round_: The round.

    Returns:
        The mean update, and the median time of a round.
    """
    try:
        import ray
    except ImportError as error:
        raise NotInstalledError("pip install 'flwr[simulation]'") from error
    del ray
    if round_.algorithm != "fomaml":
        raise RefusedError("only first-order MAML is written for it")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "round.pt")
        torch.save({"name": name, "clients": len(round_.tasks), "steps": round_.steps}, file)
        # not -m: Ray's actors must find the functions in a module of this name
        command = [sys.executable, "-c", f"from {__name__} import main; main()", str(file)]
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "FLWR_TELEMETRY_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        result = torch.load(file)
        if "mean" not in result:
            raise RuntimeError(f"Flower's simulation failed: {done.stderr[-2000:]}")
    columns = zip(*result["seconds"][1:], strict=True)
    return result["mean"], Seconds(*(statistics.median(column) for column in columns))


@cache
def _round(name: str, clients: int, steps: int) -> Round:
    from benchmarks.engine.cases import WORKLOADS

    torch.set_num_threads(1)
    workload = WORKLOADS[name]()
    return Round(workload, "fomaml", steps, workload.tasks(clients))


def _client_app(job: tuple[str, int, int]) -> Any:
    from flwr.app import ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        round_ = _round(*job)
        client = int(context.node_config["partition-id"])
        task, loss = round_.tasks[client], round_.workload.mean_loss
        module = round_.workload.problem.network()
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        for _ in range(round_.steps):
            optimizer.zero_grad()
            loss(module(task.support.x), task.support.y).backward()
            optimizer.step()
        optimizer.zero_grad()
        loss(module(task.query.x), task.query.y).backward()
        gradient = {name: value.grad for name, value in module.named_parameters()}
        return Message(RecordDict({"arrays": ArrayRecord(gradient)}), reply_to=message)

    return app


def _server_app(job: tuple[str, int, int], file: Path) -> Any:
    from flwr.app import ArrayRecord, Context, Message, RecordDict
    from flwr.serverapp import Grid, ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        round_ = _round(*job)
        theta = round_.workload.theta()
        while len(nodes := list(grid.get_node_ids())) < len(round_.tasks):
            time.sleep(0.1)
        seconds = []
        for _ in range(_REPETITIONS):
            processor, wall = _processor_seconds_of_tree(), time.perf_counter()
            content = RecordDict({"arrays": ArrayRecord(theta)})
            messages = [Message(content, message_type="train", dst_node_id=node) for node in nodes]
            replies = [
                reply.content["arrays"].to_torch_state_dict()
                for reply in grid.send_and_receive(messages)
            ]
            mean = flat({name: sum(r[name] for r in replies) / len(replies) for name in theta})
            seconds.append((_processor_seconds_of_tree() - processor, time.perf_counter() - wall))
        torch.save({"mean": mean, "seconds": seconds}, file)

    return app


def _processor_seconds_of_tree() -> float:
    """Return the processor time of this process and all that descend from it."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, seconds = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                values = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(values[1])
            seconds[int(entry.name)] = sum(map(int, values[11:15])) / ticks
    tree = {os.getpid()}
    grown = True
    while grown:
        children = {process for process, parent in parents.items() if parent in tree} - tree
        tree |= children
        grown = bool(children)
    return sum(seconds.get(process, 0.0) for process in tree)


def main() -> None:
    from flwr.simulation import run_simulation

    file = Path(sys.argv[1])
    request = torch.load(file)
    job = (request["name"], request["clients"], request["steps"])
    run_simulation(
        _server_app(job, file),
        _client_app(job),
        num_supernodes=request["clients"],
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False},
        },
    )
