"""The worker pool of a node: it sends chunks to processes and collects parts of the reply.

    WorkerPool(...).train       what `fedmaml.computing.updates` takes as ``executor``

A worker builds its own node setup and makes the tasks of its clients itself. The tensors of a
request are written to a file once, however many chunks there are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedmaml.client.node import node_setup
from fedmaml.client.worker_processes import Workers
from fedmaml.computing import evaluation, updates
from fedmaml.computing.accumulator import Trained
from fedmaml.computing.chunks import Chunk
from fedmaml.computing.costs import Costs
from fedmaml.computing.engines import Job, Memories, plan
from fedmaml.core.params import (
    Layout,
    MetaParams,
    Params,
    flatten,
    layout_of,
    unflatten,
    unstacked,
)
from fedmaml.core.requests import EvaluateReply, EvaluateRequest, TrainRequest


@dataclass(frozen=True)
class _Order:
    """What all chunks of a request have in common.

    Attributes:
        run_config: Items of the Flower run config.
        request: Without clients and tensors.
        path: File with the tensors, one for each group.
        layouts: Group -> names and shapes; "shared_statistics" holds the scenario's totals.
    """

    run_config: tuple[tuple[str, Any], ...]
    request: TrainRequest | EvaluateRequest
    path: Path
    layouts: tuple[tuple[str, Layout], ...]


class WorkerPool:
    """The workers of a node, for one run.

    Args:
        workers: The processes.
        run_config: The Flower run config, from which each worker builds its node setup.
        limit: Seconds after which a worker that computes nothing is replaced.
    """

    def __init__(
        self, workers: Workers, run_config: Mapping[str, Any], limit: float = math.inf
    ) -> None:
        self._workers = workers
        self._limit = limit
        self._run_config = tuple(sorted(run_config.items()))

    @property
    def workers(self) -> int:
        """How many chunks are computed at the same time."""
        return self._workers.number

    def train(
        self,
        engine: str,
        request: TrainRequest,
        chunks: Sequence[Chunk],
        memories: Memories,
        costs: Costs,
    ) -> Iterator[Trained]:
        """Compute `updates.train_chunk` of every chunk."""
        with self._order(request) as order:
            calls = [(order, engine, chunk, _stacked(chunk, memories), costs) for chunk in chunks]
            yield from self._workers.map(_train, calls, self._limit)

    def evaluate(
        self,
        engine: str,
        request: EvaluateRequest,
        chunks: Sequence[Chunk],
        memories: Memories,
    ) -> Iterator[EvaluateReply]:
        """Compute `evaluation.evaluate_chunk` of every chunk."""
        with self._order(request) as order:
            calls = [(order, engine, chunk, _stacked(chunk, memories)) for chunk in chunks]
            yield from self._workers.map(_evaluate, calls, self._limit)

    @contextmanager
    def _order(self, request: TrainRequest | EvaluateRequest) -> Iterator[_Order]:
        trees = request.meta | (
            {"shared_statistics": request.shared_statistics} if request.shared_statistics else {}
        )
        layouts = tuple((group, layout_of(params)) for group, params in trees.items())
        bare = replace(request, clients=(), meta={}, shared_statistics={})
        flat = {group: flatten(params).cpu() for group, params in trees.items()}
        with self._workers.file(flat) as path:
            yield _Order(self._run_config, bare, path, layouts)


def _stacked(chunk: Chunk, memories: Memories) -> dict[str, np.ndarray]:
    """Stack the memories of a chunk: cheaper to send than one by one."""
    names = memories[chunk[0]]
    return {
        name: torch.stack([memories[client][name] for client in chunk]).numpy() for name in names
    }


# --- what a worker does ---------------------------------------------------------------------------


def _train(
    order: _Order,
    engine: str,
    chunk: Chunk,
    memories: Mapping[str, np.ndarray],
    costs: Costs,
) -> Trained:
    node = node_setup(dict(order.run_config))
    trees = _tensors(order)
    shared_statistics = trees.pop("shared_statistics", {})
    assert isinstance(order.request, TrainRequest)
    prepared = node.prepared
    request = replace(order.request, clients=chunk, meta=trees, shared_statistics=shared_statistics)
    request = prepared.on_device(request)
    job = Job(prepared.strategy, prepared.learner, request.meta, request.computed_form)
    chosen = plan(engine, job)
    if chosen.engine.name != engine:  # another engine cuts other chunks and gives other bits
        raise RuntimeError(f"a worker cannot compute with engine {engine} as its node: {chosen}")
    return updates.train_chunk(
        job,
        chosen.engine,
        request,
        node.tasks("train", request.round, shared_statistics),
        _unstacked(chunk, memories),
        costs,
    )


def _evaluate(
    order: _Order, engine: str, chunk: Chunk, memories: Mapping[str, np.ndarray]
) -> EvaluateReply:
    node = node_setup(dict(order.run_config))
    trees = _tensors(order)
    shared_statistics = trees.pop("shared_statistics", {})
    assert isinstance(order.request, EvaluateRequest)
    request = replace(order.request, clients=chunk, meta=trees, shared_statistics=shared_statistics)
    request = node.prepared.on_device(request)
    return evaluation.evaluate_chunk(
        node.prepared.strategy,
        node.prepared.learner,
        request,
        node.tasks(request.split, request.round, shared_statistics),
        _unstacked(chunk, memories),
        engine,
    )


def _tensors(order: _Order) -> MetaParams:
    flat = _read(order.path)
    return {group: unflatten(flat[group], layout) for group, layout in order.layouts}


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def _unstacked(chunk: Chunk, memories: Mapping[str, np.ndarray]) -> dict[int, Params]:
    tensors = {name: torch.from_numpy(values) for name, values in memories.items()}
    return dict(zip(chunk, unstacked(tensors, len(chunk)), strict=True))
