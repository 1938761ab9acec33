"""The libraries that people use today, one client after the other, as their own examples do it."""

import copy
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from benchmarks.engine.reference import distance_loss
from benchmarks.engine.rounds import (
    LR,
    OF_LIBRARIES,
    Contender,
    NotInstalledError,
    RefusedError,
    Round,
    flat,
)
from fedmaml.core.tasks import Task


def deepcopy_loop(round_: Round) -> Contender:
    """Copy the module, run ``torch.optim.SGD`` on the copy: what most federated baselines do.

    Of prototypical networks: a loop over the clients, one backward pass each.
    """
    if round_.algorithm == "protonet":
        return _prototypes_one_by_one(round_)
    _refuse_what_is_not_theirs(round_)
    if round_.algorithm == "maml":
        raise RefusedError("first order only: a copy is cut off from the original")
    module, loss = round_.workload.module(), round_.workload.mean_loss

    def mean() -> Tensor:
        total = [torch.zeros_like(value) for value in module.parameters()]
        for task, weight in _weighted(round_):
            local = copy.deepcopy(module)
            optimizer = torch.optim.SGD(local.parameters(), lr=LR)
            x, y = round_.training(task)
            for _ in range(round_.steps):
                optimizer.zero_grad()
                loss(local(x), y).backward()
                optimizer.step()
            if round_.algorithm == "fomaml":
                optimizer.zero_grad()
                loss(local(task.query.x), task.query.y).backward()
                _add(total, weight, _gradients(local))
            else:
                _add(total, weight, _differences(module, list(local.parameters())))
        return flat(total)

    return mean


def _prototypes_one_by_one(round_: Round) -> Contender:
    module = round_.workload.module()
    assert isinstance(module, nn.Sequential)
    embedding, classes = module[:-1], len(list(module.parameters())[-1])

    def mean() -> Tensor:
        embedding.zero_grad()
        for task, weight in _weighted(round_):
            known, asked = embedding(task.support.x), embedding(task.query.x)
            loss = distance_loss(known, task.support.y, asked, task.query.y, classes)
            (weight * loss).backward()
        return flat(_gradients(embedding))

    return mean


def learn2learn(round_: Round) -> Contender:
    """Clone and adapt with learn2learn's ``MAML`` or ``MetaSGD``; ANIL is ``MAML`` of the head."""
    if round_.algorithm not in (*OF_LIBRARIES, "meta_sgd", "anil"):
        raise RefusedError("compared with JAX alone")
    module, loss = round_.workload.module(), round_.workload.mean_loss
    features, head = nn.Sequential(), module
    if round_.algorithm == "anil":
        assert isinstance(module, nn.Sequential)
        features, head = module[:-1], module[-1]
    if round_.algorithm == "meta_sgd":
        algorithm = _learn2learn("meta_sgd").MetaSGD(head, lr=LR)
    else:
        first_order = round_.algorithm in ("fomaml", "reptile")
        algorithm = _learn2learn("maml").MAML(head, lr=LR, first_order=first_order)
    whole = nn.ModuleList([features, algorithm])

    def mean() -> Tensor:
        whole.zero_grad()
        total = [torch.zeros_like(value) for value in algorithm.parameters()]
        for task, weight in _weighted(round_):
            learner = algorithm.clone()
            x, y = round_.training(task)
            seen = features(x)
            for _ in range(round_.steps):
                learner.adapt(loss(learner(seen), y))
            if round_.algorithm == "reptile":
                _add(total, weight, _differences(algorithm, list(learner.parameters())))
            else:
                asked = features(task.query.x)
                (weight * loss(learner(asked), task.query.y)).backward()
        return flat(total if round_.algorithm == "reptile" else _gradients(whole))

    return mean


def higher(round_: Round) -> Contender:
    """Adapt in higher's ``innerloop_ctx``."""
    _refuse_what_is_not_theirs(round_)
    library = _import("higher", "pip install higher==0.2.1")
    module, loss = round_.workload.module(), round_.workload.mean_loss
    exact = round_.algorithm == "maml"

    def mean() -> Tensor:
        module.zero_grad()
        total = [torch.zeros_like(value) for value in module.parameters()]
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        for task, weight in _weighted(round_):
            with library.innerloop_ctx(
                module, optimizer, copy_initial_weights=False, track_higher_grads=exact
            ) as (learner, steps):
                x, y = round_.training(task)
                for _ in range(round_.steps):
                    steps.step(loss(learner(x), y))
                fast = list(learner.parameters())
                if round_.algorithm == "reptile":
                    _add(total, weight, _differences(module, fast))
                    continue
                query_loss = loss(learner(task.query.x), task.query.y)
                if exact:
                    (weight * query_loss).backward()
                else:
                    _add(total, weight, torch.autograd.grad(query_loss, fast))
        return flat(_gradients(module) if exact else total)

    return mean


def torchopt(round_: Round) -> Contender:
    """Adapt with TorchOpt's ``MetaSGD``, which puts the fast weights into the module itself."""
    _refuse_what_is_not_theirs(round_)
    library = _import("torchopt", "pip install torchopt==0.7.3")
    module, loss = round_.workload.module(), round_.workload.mean_loss

    def mean() -> Tensor:
        module.zero_grad()
        theta = list(module.parameters())
        total = [torch.zeros_like(value) for value in theta]
        optimizer = library.MetaSGD(module, lr=LR)
        states = [
            library.extract_state_dict(module, by="reference", detach_buffers=True),
            library.extract_state_dict(optimizer, by="reference"),
        ]
        for task, weight in _weighted(round_):
            x, y = round_.training(task)
            for _ in range(round_.steps):
                optimizer.step(loss(module(x), y))
            fast = list(_values_in_place(module))
            if round_.algorithm == "reptile":
                pairs = zip(theta, fast, strict=True)
                _add(total, weight, [start.detach() - end.detach() for start, end in pairs])
            else:
                query_loss = loss(module(task.query.x), task.query.y)
                if round_.algorithm == "maml":
                    (weight * query_loss).backward()
                else:
                    _add(total, weight, torch.autograd.grad(query_loss, fast))
            for owner, state in zip((module, optimizer), states, strict=True):
                library.recover_state_dict(owner, state)
        return flat(_gradients(module) if round_.algorithm == "maml" else total)

    return mean


def _refuse_what_is_not_theirs(round_: Round) -> None:
    if round_.algorithm not in OF_LIBRARIES:
        raise RefusedError("compared with JAX alone")


def _weighted(round_: Round) -> Iterator[tuple[Task, float]]:
    return zip(round_.tasks, round_.weights(), strict=True)


def _add(total: list[Tensor], weight: float, update: list[Tensor] | tuple[Tensor, ...]) -> None:
    for value, part in zip(total, update, strict=True):
        value.add_(part, alpha=weight)


def _gradients(module: nn.Module) -> list[Tensor]:
    gradients = [value.grad for value in module.parameters()]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def _differences(module: nn.Module, fast: list[Tensor]) -> list[Tensor]:
    pairs = zip(module.parameters(), fast, strict=True)
    return [start.detach() - end.detach() for start, end in pairs]


def _values_in_place(module: nn.Module) -> Iterator[Tensor]:
    """Yield what now stands where the parameters stood; ``parameters()`` skips plain tensors."""
    for part in module.modules():
        yield from (value for value in part._parameters.values() if value is not None)


def _import(name: str, how: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotInstalledError(f"{how} ({error})") from error


def _learn2learn(module: str) -> ModuleType:
    """Import one of its algorithms; from an unpacked source distribution without its data part."""
    source = os.environ.get("LEARN2LEARN_SOURCE")
    if source and "learn2learn" not in sys.modules:
        for name in ("learn2learn", "learn2learn.algorithms"):
            package = ModuleType(name)
            package.__path__ = [str(Path(source, *name.split(".")))]
            sys.modules[name] = package
    how = "unpack the source of learn2learn==0.2.0, set LEARN2LEARN_SOURCE"
    return _import(f"learn2learn.algorithms.{module}", how)
