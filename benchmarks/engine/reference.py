"""The definition with which all contenders are compared: one client as a pure function.

phi_0 = theta,  phi_{t+1} = phi_t - lr * grad L(phi_t)
fomaml   grad L_query at phi_k        maml   the same, through the steps
reptile  theta - phi_k
meta_sgd maml with a rate for each entry, which starts at lr; and the gradient in the rates
anil     maml whose steps move the last layer (its weight and bias) alone
protonet the last layer is left out: cross-entropy of minus the squared distances to class means
fedrep   twice the steps of the last layer, then steps of the others; their difference
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.engine.rounds import LR, Contender, RefusedError, Round, flat
from fedmaml.core.meter import count_flops
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch, Task, cast, group_by_shape


def client_update(round_: Round) -> Callable[[Params, Batch, Batch], Params]:
    """Return the function (theta, examples to train on, query) -> one client's update."""
    module = round_.workload.module().requires_grad_(False)

    def loss(params: Params, batch: Batch) -> Tensor:
        return round_.workload.mean_loss(functional_call(module, params, (batch.x,)), batch.y)

    def steps(params: Params, batch: Batch) -> Params:
        for _ in range(round_.steps):
            gradient = grad(loss)(params, batch)
            params = {name: value - LR * gradient[name] for name, value in params.items()}
        return params

    def fomaml(theta: Params, training: Batch, query: Batch) -> Params:
        return grad(loss)(steps(theta, training), query)

    def maml(theta: Params, training: Batch, query: Batch) -> Params:
        return grad(lambda start: loss(steps(start, training), query))(theta)

    def reptile(theta: Params, training: Batch, query: Batch) -> Params:
        del query
        phi = steps(theta, training)
        return {name: theta[name] - phi[name] for name in theta}

    def meta_sgd(theta: Params, training: Batch, query: Batch) -> Params:
        def at(start: Params, rates: Params) -> Tensor:
            for _ in range(round_.steps):
                gradient = grad(loss)(start, training)
                start = {name: start[name] - rates[name] * gradient[name] for name in start}
            return loss(start, query)

        rates = {name: torch.full_like(value, LR) for name, value in theta.items()}
        of_theta, of_rates = grad(at, argnums=(0, 1))(theta, rates)
        return of_theta | {f"rate of {name}": value for name, value in of_rates.items()}

    def some_steps(params: Params, names: list[str], batch: Batch, count: int) -> Params:
        for _ in range(count):
            gradient = grad(loss)(params, batch)
            params = params | {name: params[name] - LR * gradient[name] for name in names}
        return params

    *body, weight, bias = round_.workload.theta()

    def anil(theta: Params, training: Batch, query: Batch) -> Params:
        def at(start: Params) -> Tensor:
            return loss(some_steps(start, [weight, bias], training, round_.steps), query)

        return grad(at)(theta)

    def fedrep(theta: Params, training: Batch, query: Batch) -> Params:
        del query
        own = some_steps(theta, [weight, bias], training, 2 * round_.steps)
        phi = some_steps(own, body, training, round_.steps)
        return {name: theta[name] - phi[name] for name in body}

    def protonet(theta: Params, training: Batch, query: Batch) -> Params:
        embedding = module[:-1]  # type: ignore[index]

        def at(start: Params) -> Tensor:
            known, asked = (
                functional_call(embedding, start, (batch.x,)) for batch in (training, query)
            )
            return distance_loss(known, training.y, asked, query.y, classes)

        return grad(at)({name: theta[name] for name in body})

    classes = len(round_.workload.theta()[bias])
    functions = (fomaml, maml, reptile, meta_sgd, anil, fedrep, protonet)
    return {function.__name__: function for function in functions}[round_.algorithm]


def distance_loss(
    known: Tensor, classes_of: Tensor, asked: Tensor, y: Tensor, classes: int
) -> Tensor:
    """Return the cross-entropy of minus the squared distances to the means of classes."""
    member = (classes_of == torch.arange(classes)[:, None]).to(known.dtype)
    means = member @ known / member.sum(1, keepdim=True)
    distances = (asked[:, None] - means).square().sum(-1)
    return torch.nn.functional.cross_entropy(-distances, y)


def loop(round_: Round, dtype: torch.dtype = torch.float32) -> Contender:
    """Return plain torch.func, one client after the other."""
    theta = {name: value.to(dtype) for name, value in round_.workload.theta().items()}
    update, weights = client_update(round_), round_.weights()
    tasks = [cast(task, dtype) for task in round_.tasks]

    def mean() -> Tensor:
        total = torch.zeros((), dtype=dtype)
        for task, weight in zip(tasks, weights, strict=True):
            total = total + weight * flat(update(theta, round_.training(task), task.query))
        return total

    return mean


def vectorised(round_: Round) -> Contender:
    """Return plain torch.func.vmap, the clients of equal size together."""
    theta, update = round_.workload.theta(), client_update(round_)
    weights = round_.weights()
    groups = group_by_shape(dict(enumerate(round_.tasks)))
    shares = [torch.tensor([weights[client] for client in group.clients]) for group in groups]

    def one(theta: Params, task: Task) -> Params:
        return update(theta, round_.training(task), task.query)

    many = vmap(one, in_dims=(None, 0))

    def mean() -> Tensor:
        total: Tensor | float = 0.0
        for group, share in zip(groups, shares, strict=True):
            try:
                updates = many(theta, group.tasks)
            except RuntimeError as error:  # PyTorch has no batching rule for a layer
                raise RefusedError(str(error).splitlines()[0]) from error
            weigh = partial(torch.tensordot, share, dims=1)
            total = total + flat([weigh(value) for value in updates.values()])
        assert isinstance(total, Tensor)
        return total

    return mean


def flops_per_client(round_: Round) -> float:
    """Count the operations of the clients' updates; the mean over clients."""
    theta, update = round_.workload.theta(), client_update(round_)
    known: dict[tuple[int, ...], int] = {}
    total = 0
    for task in round_.tasks:
        sizes = tuple(len(batch.y) for batch in task)
        if sizes not in known:
            known[sizes] = count_flops(update, theta, round_.training(task), task.query)
        total += known[sizes]
    return total / len(round_.tasks)


def relative_difference(result: Tensor, expected: Tensor) -> float:
    """Return |result - expected| / |expected| in the Euclidean norm."""
    return float((result.double() - expected).norm() / expected.norm())
