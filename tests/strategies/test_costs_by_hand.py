"""What updates cost, against docs/costs.md: products counted by hand, layer by layer."""

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch.func import vmap
from torch.nn.functional import cross_entropy

from fedmaml.core import seeding
from fedmaml.core.costs import Computation
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.meter import count_flops, measure
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.params import map_params
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import ClientUpdate
from tests.catalogue import FOUNDING, founding_first, slow_unless
from tests.conftest import REGRESSORS

SUPPORT, QUERY, CLASSES = 10, 15, 5
HEAD_STEPS = 3  # FedRep
LOCAL_STEPS = 2  # Per-FedAvg, pFedMe
ADAPTATION_STEPS = 5  # Ditto
LEARNED_MODULES = (
    "matchingnet", "siamese", "relation", "cnp", "anp", "mann", "meta_memory", "metanet", "snail",
    "meta_lstm", "pearl",
)  # fmt: skip
UNCOUNTED = ("anil", "boil", "cavia", "imaml", "per_fedavg_hf", "r2d2", "rl2", *LEARNED_MODULES)
"""Strategies for which docs/costs.md has no formula, only what is measured."""


TAKE_CLASSES = [name for name in CATALOGUE if name not in REGRESSORS]


@dataclass(frozen=True)
class Network:
    """A network, and the multiply-adds of each of its layers for one example."""

    problem: Problem
    features: tuple[int, ...]
    layers: tuple[int, ...]
    embedding: int


def problem(network: Any) -> Problem:
    return Problem(
        network,
        lambda logits, y: cross_entropy(logits, y, reduction="none"),
        (ACCURACY,),
        classes=CLASSES,
    )


FILTERS = 8
NETWORKS = {
    "MLP": Network(
        problem(lambda: MLP((64, 32, 16, CLASSES))),
        (64,),
        (64 * 32, 32 * 16, 16 * CLASSES),
        16,
    ),
    # 3x3 kernels over 20x20 pixels, halved (rounded down) by every pooling.
    "Conv4": Network(
        problem(lambda: Conv4(1, 20, CLASSES, filters=FILTERS)),
        (1, 20, 20),
        (
            20 * 20 * 9 * FILTERS,
            *(side * side * 9 * FILTERS * FILTERS for side in (10, 5, 2)),
            FILTERS * CLASSES,
        ),
        FILTERS,
    ),
}


def by_hand(strategy: str, steps: int, network: Network) -> int:
    """Return an update's operations by the formulas of docs/costs.md."""
    first, *others = network.layers
    head = network.layers[-1]
    forward = 2 * (first + sum(others))
    gradient = 2 * (2 * first + 3 * sum(others))
    # A convolution's double backward computes the images' part, which nobody asked for.
    convolutional = len(network.features) > 1
    second_order = 2 * ((3 if convolutional else 2) * first + 6 * sum(others))
    both = SUPPORT + QUERY
    first_order = QUERY * forward + steps * SUPPORT * gradient + QUERY * gradient
    body_gradient = gradient - 2 * 3 * head
    tau = LOCAL_STEPS
    prototypes = 2 * 2 * CLASSES * SUPPORT * network.embedding
    formulas = {
        "local": steps * SUPPORT * gradient + 2 * QUERY * forward,
        "fomaml": first_order,
        "maml": first_order + steps * SUPPORT * second_order,
        "meta_sgd": first_order + steps * SUPPORT * second_order,
        "fedrep": both
        * (HEAD_STEPS * (forward + 2 * head) + steps * (gradient - 2 * head) + 2 * forward),
        "meta_gradient_descent": both * gradient,
        "learned_momentum": first_order + steps * SUPPORT * second_order,
        "map": first_order + steps * SUPPORT * second_order,
        "lslr": QUERY * forward + steps * (SUPPORT * (gradient + second_order) + QUERY * gradient),
        "truncated": first_order + SUPPORT * second_order,
        "per_fedavg_fo": (tau + 1) * steps * SUPPORT * gradient
        + tau * QUERY * gradient
        + 2 * QUERY * forward,
        "pfedme": both * ((tau + 1) * steps * gradient + 2 * forward),
        "ditto": both * ((steps + ADAPTATION_STEPS) * gradient + 3 * forward),
        "apfl": both * (2 * steps * gradient + 2 * forward),
        "fedbabu": both * (steps * (gradient - 2 * head) + 2 * forward),
        "protonet": both * body_gradient + prototypes,
    }
    averaging = both * (steps * gradient + 2 * forward)
    return formulas.get(strategy, averaging)


def prepared(name: str, steps: int, network: Network, clients: int = 1) -> tuple[Any, Any]:
    """Return an update as a function of (memory, task), and arguments for some clients."""
    cls = CATALOGUE[name]
    inner = GradientSteps(lr=0.1, steps=steps)
    known = {field.name for field in fields(cls)}
    settings = {"inner": inner} if "inner" in known else {}
    if "head" in known:
        settings["head"] = GradientSteps(steps=HEAD_STEPS)
    if "local" in known:
        settings["local"] = GradientSteps(steps=LOCAL_STEPS)
    strategy = cls(**settings)
    start = strategy.build(network.problem, seeding.generator(0))
    examples = SUPPORT + QUERY
    x = seeding.normal(seeding.key(0, "x"), range(clients), examples, *network.features).float()
    y = (torch.arange(examples) % CLASSES).expand(clients, -1)
    tasks = Task(Batch(x[:, :SUPPORT], y[:, :SUPPORT]), Batch(x[:, SUPPORT:], y[:, SUPPORT:]))

    def update(memory: Any, task: Task) -> ClientUpdate:
        return strategy.client_update(start.learner, start.state.meta, memory, task)

    memories = map_params(lambda value: torch.stack([value] * clients), start.memory)
    return update, (memories, tasks)


def one(arguments: tuple[Any, Task]) -> tuple[Any, Task]:
    memories, tasks = arguments
    task = Task(*(Batch(*(value[0] for value in batch)) for batch in tasks))
    return {name: value[0] for name, value in memories.items()}, task


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(
    ("name", "network"),
    [
        slow_unless(name in FOUNDING or network == "MLP", name, network)
        for name in TAKE_CLASSES
        for network in NETWORKS
        if name not in UNCOUNTED
    ],
)
def test_measured_operations_are_those_counted_by_hand(name: str, network: str, steps: int) -> None:
    update, arguments = prepared(name, steps, NETWORKS[network])
    measured = count_flops(update, *one(arguments))
    assert measured == pytest.approx(by_hand(name, steps, NETWORKS[network]), rel=0.01)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", founding_first(TAKE_CLASSES))
def test_vectorised_clients_do_the_same_operations(name: str, network: str) -> None:
    update, arguments = prepared(name, 2, NETWORKS[network], clients=3)
    together, alone = count_flops(vmap(update), *arguments), count_flops(update, *one(arguments))
    # vmap makes of CAVIA's small product, U phi, a sum of products, which are not counted.
    assert together == (pytest.approx(3 * alone, rel=0.01) if name == "cavia" else 3 * alone)


@pytest.mark.parametrize("name", TAKE_CLASSES)
def test_the_same_update_is_measured_alike_twice(name: str) -> None:
    update, arguments = prepared(name, 2, NETWORKS["MLP"])
    first, second = (measure(update, *one(arguments)) for _ in range(2))
    assert first == second
    assert first.flops > 0
    assert first.peak_bytes > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_memory_of_maml_grows_with_the_steps_and_that_of_fomaml_does_not(network: str) -> None:
    def peak(name: str, steps: int) -> int:
        update, arguments = prepared(name, steps, NETWORKS[network])
        result: Computation = measure(update, *one(arguments))
        return result.peak_bytes

    assert peak("maml", 10) > 1.3 * peak("maml", 5)
    assert peak("fomaml", 10) < 1.1 * peak("fomaml", 5)
