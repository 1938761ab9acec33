"""Federated MAML in plain loops: what `fedmaml run sinusoid --strategy maml` computes.

No Flower, no fedmaml, no torch.func; a test holds this file and the library to the same theta.

    inner loop     phi_0 = theta,  phi_{t+1} = phi_t - inner_lr * grad L_support(phi_t)
    meta-gradient  g = grad_theta L_query(phi_k), second derivatives kept
    outer step     theta <- Adam(theta, mean of g over the cohort, weighted by query examples)

Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017, Algorithm 1. arXiv:1703.03400
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Task = tuple[Tensor, Tensor, Tensor, Tensor]  # support x, support y, query x, query y


def predict(params: list[Tensor], x: Tensor) -> Tensor:
    """Apply a ReLU network; ``params`` are weight, bias, weight, bias, ... from input to output."""
    *hidden, weight, bias = params
    for w, b in zip(hidden[::2], hidden[1::2], strict=True):
        x = torch.relu(x @ w.T + b)
    return x @ weight.T + bias


def mean_squared_error(params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of one task, support or query."""
    return (predict(params, x) - y).square().mean()


def adapt(theta: list[Tensor], x: Tensor, y: Tensor, lr: float, steps: int) -> list[Tensor]:
    """Inner loop: a few gradient steps on the support examples, from theta to fast weights."""
    fast = theta
    for _ in range(steps):
        loss = mean_squared_error(fast, x, y)
        # create_graph: the step itself stays differentiable, which makes MAML second order.
        gradient = torch.autograd.grad(loss, fast, create_graph=True)
        fast = [w - lr * g for w, g in zip(fast, gradient, strict=True)]
    return fast


def federated_maml(
    theta: list[Tensor],
    cohort: Callable[[int], list[Task]],
    rounds: int,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    outer_lr: float = 0.001,
) -> list[Tensor]:
    """Train theta; ``cohort(round)`` gives the tasks of the clients asked in that round, from 1."""
    theta = [w.clone().requires_grad_() for w in theta]
    optimizer = torch.optim.Adam(theta, lr=outer_lr)
    for number in range(1, rounds + 1):  # the server's loop
        weighted_sum = [torch.zeros_like(w) for w in theta]
        examples, mean_loss = 0, 0.0
        tasks = cohort(number)
        for support_x, support_y, query_x, query_y in tasks:  # what each client does
            fast = adapt(theta, support_x, support_y, inner_lr, inner_steps)
            query_loss = mean_squared_error(fast, query_x, query_y)
            # The gradient in theta, not in the fast weights: back through the inner loop.
            meta_gradient = torch.autograd.grad(query_loss, theta)
            # Back on the server: the sum of the updates, each weighted by its query examples.
            weighted_sum = [
                s + len(query_x) * g for s, g in zip(weighted_sum, meta_gradient, strict=True)
            ]
            examples += len(query_x)
            mean_loss += float(query_loss.detach()) / len(tasks)
        for w, s in zip(theta, weighted_sum, strict=True):
            w.grad = s / examples
        optimizer.step()
        if number % 100 == 0:
            print(f"round {number}: query loss after adaptation {mean_loss:.2f}")
    return [w.detach() for w in theta]


def sinusoids(clients: int, support: int, query: int, rng: torch.Generator) -> list[Task]:
    """Draw clients, each with a curve of its own, and its support and query points."""
    tasks = []
    for _ in range(clients):
        amplitude = 0.1 + 4.9 * torch.rand((), generator=rng)
        phase = math.pi * torch.rand((), generator=rng)
        x = 10 * torch.rand(support + query, 1, generator=rng) - 5
        y = amplitude * torch.sin(x - phase)
        tasks.append((x[:support], y[:support], x[support:], y[support:]))
    return tasks


def main() -> None:
    """Train on fresh clients every round, then adapt to clients that never took part."""
    rng = torch.Generator().manual_seed(0)
    theta = []
    for inputs, outputs in ((1, 40), (40, 40), (40, 1)):
        weight = torch.randn(outputs, inputs, generator=rng) / inputs**0.5
        theta += [weight, torch.zeros(outputs)]
    theta = federated_maml(theta, lambda _: sinusoids(10, 10, 10, rng), 500, outer_lr=0.005)

    for w in theta:
        w.requires_grad_()
    unseen = sinusoids(100, 10, 100, rng)
    for steps in (0, 1, 5, 10):
        losses = [
            mean_squared_error(adapt(theta, x, y, 0.01, steps), query_x, query_y).item()
            for x, y, query_x, query_y in unseen
        ]
        print(f"unseen clients, {steps:2} steps: loss {sum(losses) / len(losses):.2f}")


if __name__ == "__main__":
    main()
