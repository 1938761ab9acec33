"""JAX as a contender: hands the round to `jax_worker` in the interpreter that JAX_PYTHON names."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engine.rounds import LR, NotInstalledError, RefusedError, Round, Seconds
from fedmaml.core.tasks import Batch, group_by_shape


class JaxRound:
    """A round that another process computes, and times."""

    def __init__(self, round_: Round, together: int = 0) -> None:
        """Start the worker.

        Args:
            round_: What to compute.
            together: How many clients are computed in one vmap, of as many as follow one another
                in ``lax.map``; 0: all.
        """
        python = os.environ.get("JAX_PYTHON")
        if not python:
            raise NotInstalledError(
                "pip install jax in an environment, set JAX_PYTHON to its python"
            )
        network = round_.workload.problem.network()
        if not isinstance(network, nn.Sequential):
            raise RefusedError(f"no JAX counterpart of {type(network).__name__} is written here")
        layers = [_description(layer) for layer in network]
        groups = group_by_shape(dict(enumerate(round_.tasks)))
        if len(groups) > 1:
            raise RefusedError("clients of unequal size are not vmapped")
        tasks = groups[0].tasks
        training = tasks.support
        if round_.algorithm in ("reptile", "fedrep"):
            pairs = zip(tasks.support, tasks.query, strict=True)
            training = Batch(*(torch.cat(pair, dim=1) for pair in pairs))
        self._folder = tempfile.TemporaryDirectory()
        self._file = str(Path(self._folder.name, "arrays.npz"))
        values = [*round_.workload.theta().values(), *training, *tasks.query]
        np.savez(self._file, *(value.numpy() for value in values))
        worker = Path(__file__).with_name("jax_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask(
            command="prepare",
            file=self._file,
            layers=layers,
            loss=round_.workload.problem.loss.__name__,
            algorithm=round_.algorithm,
            together=_divisor(len(round_.tasks), together),
            steps=round_.steps,
            lr=LR,
        )

    def __call__(self) -> Tensor:
        """Compute the mean update."""
        file = str(Path(self._folder.name, "result.npy"))
        self._ask(command="result", file=file)
        return torch.from_numpy(np.load(file))

    def seconds(self) -> Seconds:
        """Compute it without fetching it, and return the time as the worker took it."""
        return Seconds(*self._ask(command="time"))

    def close(self) -> None:
        """End the worker."""
        self._process.communicate()
        self._folder.cleanup()

    def _ask(self, **job: Any) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError("the JAX worker ended; its traceback is above")
        return json.loads(answer)


def _divisor(clients: int, most: int) -> int:
    """Return the largest number up to ``most`` that divides the clients; 0 for all of them."""
    if not most or clients <= most:
        return 0
    return max(size for size in range(1, most + 1) if clients % size == 0)


def _description(layer: nn.Module) -> list[Any]:
    match layer:
        case nn.Linear():
            return ["linear"]
        case nn.ReLU():
            return ["relu"]
        case nn.Flatten():
            return ["flatten"]
        case nn.Conv2d():
            return ["convolution", layer.padding[0]]
        case nn.BatchNorm2d():
            return ["batch norm", layer.eps]
        case nn.MaxPool2d():
            return ["max pool", layer.kernel_size]
    raise RefusedError(f"no JAX counterpart of {type(layer).__name__} is written here")
