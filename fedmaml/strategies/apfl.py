"""APFL: every client mixes the global model with one of its own, by a weight that it learns.

    client         w_0 = theta,  own model v,  mixture a,  mixed model  u = w + a (v - w)
                   w_{t+1} = w_t - inner.lr * grad L_local(w_t)
                   v_{t+1} = v_t - inner.lr * a grad L_local(u_t)
                   a_{t+1} = a_t - inner.lr * <v_t - w_t, grad L_local(u_t)>, to [0, 1] at the end
    client keeps   v and a, from round to round (its memory)
    client sends   theta - w_k
    server         theta <- outer(theta, mean of theta - w)
    adapt          steps of v and a on the support set, ``adaptation``; w = theta; predict by u

Deng, Kamani, Mahdavi. Adaptive Personalized Federated Learning. 2020, Algorithm 1.
arXiv:2003.13461.
Deviations: a client that never took part has v = theta of this round; a takes the rate of w and v
and is bounded once a round, where the paper learns it in the first step of a round.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Le

from fedmaml.strategies.prelude import (
    Batch,
    ClientUpdate,
    Facts,
    Generator,
    GradientSteps,
    Initialised,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    Task,
    Tensor,
    example_count,
    field,
    joined,
    map_params,
    outer_step,
    partial,
    settings,
    subtract,
    whole_network,
)


@settings
class APFL(MetaStrategy):
    """APFL; equations in the module docstring.

    Attributes:
        inner: Steps of w, v and a in training.
        outer: Optimiser of the outer loop; the default replaces theta by the mean of w.
        adaptation: Steps of v and a at a client that adapts.
        mixture: Where a starts, in [0, 1]; 0 is the global model alone, and no v is learned.
    """

    facts = Facts(
        "APFL",
        "personalised",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)
    mixture: Annotated[float, Ge(0), Le(1)] = 0.5

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, _ = whole_network(self, problem, rng)
        like = next(iter(state.meta["theta"].values()))
        own = {"v." + name: value for name, value in state.meta["theta"].items()}
        memory = {"a": like.new_full((), self.mixture), "took_part": like.new_zeros(())}
        return Initialised(learner, state, own | memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        theta = meta["theta"]

        def loss(own: Params, batch: Batch) -> Tensor:
            return learner.loss(_mixed(own, theta), batch)

        own = _bounded(self.adaptation.run(loss, _own(memory, theta), support))
        return partial(learner.apply, _mixed(own, theta))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        theta, local = meta["theta"], joined(task)

        def both(point: Params, batch: Batch) -> Tensor:
            w = {name: point["w." + name] for name in theta}
            constant = map_params(Tensor.detach, w)
            return learner.loss(w, batch) + learner.loss(_mixed(point, constant), batch)

        start = {"w." + name: value for name, value in theta.items()} | _own(memory, theta)
        end = _bounded(self.inner.run(both, start, local))
        w = {name: end.pop("w." + name) for name in theta}
        metrics = {
            "loss_before": learner.loss(theta, local),
            "loss_after": learner.loss(_mixed(end, w), local),
        }
        kept = end | {"took_part": torch.ones_like(memory["took_part"])}
        return ClientUpdate({"theta": subtract(theta, w)}, example_count(local), metrics, kept)

    server_update = outer_step


def _own(memory: Params, theta: Params) -> Params:
    """Return a client's v and a; v is theta if it never took part."""
    v = {
        "v." + name: torch.where(memory["took_part"] > 0.5, memory["v." + name], value)
        for name, value in theta.items()
    }
    return v | {"a": memory["a"]}


def _mixed(own: Params, w: Params) -> Params:
    return {name: value + own["a"] * (own["v." + name] - value) for name, value in w.items()}


def _bounded(own: Params) -> Params:
    return own | {"a": own["a"].clamp(0, 1)}
