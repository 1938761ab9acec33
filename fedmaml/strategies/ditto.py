"""Ditto: a global model as in FedAvg, and a personal model v that stays near it and at home.

    client         w_0 = theta,  w_{t+1} = w_t - inner.lr * grad L_local(w_t)
                   v_{t+1} = v_t - adaptation.lr * (grad L_local(v_t) + lam (v_t - theta))
    client keeps   v, from round to round (its memory)
    client sends   theta - w_k
    server         theta <- outer(theta, mean of theta - w_k)
    adapt          v steps on the support set, from the client's own v

Li, Hu, Beirami, Smith. Ditto: Fair and Robust Federated Learning Through Personalization. ICML
2021, Algorithm 1. arXiv:2012.04221.
Deviation: a client that never took part has v = theta of this round; the paper leaves v_0 open,
and v_0 of round 0 would leave new clients with an untrained model.
"""

from typing import Annotated

import torch
from annotated_types import Ge

from fedmaml.strategies.prelude import (
    Adapts,
    Batch,
    ClientUpdate,
    Facts,
    Generator,
    GradientSteps,
    Initialised,
    Kernel,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    Task,
    Tensor,
    field,
    joined,
    local_update,
    outer_step,
    partial,
    settings,
    squared_distance,
    whole_network,
)


@settings
class Ditto(MetaStrategy):
    """Ditto; equations in the module docstring.

    Attributes:
        inner: Steps of the global model in training.
        outer: Optimiser of the outer loop; the default replaces theta by the mean.
        adaptation: Steps of the personal model, in training and at a client that adapts.
        lam: Strength of the pull to theta, >= 0.
    """

    facts = Facts(
        "Ditto",
        "personalised",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        kernel=Kernel("difference"),
        adapts=Adapts(pull="lam", own_model=True),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)
    lam: Annotated[float, Ge(0)] = 0.1

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, _ = whole_network(self, problem, rng)
        memory = _kept(state.meta["theta"], took_part=False)
        return Initialised(learner, state, memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return partial(learner.apply, self._personal(learner, meta["theta"], memory, support))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        local = joined(task)
        own = self._personal(learner, meta["theta"], memory, local)
        sent = local_update(self, learner, meta, memory, task)
        metrics = sent.metrics | {"loss_after": learner.loss(own, local)}
        return sent._replace(metrics=metrics, memory=_kept(own, took_part=True))

    server_update = outer_step

    def _personal(self, learner: Learner, theta: Params, memory: Params, local: Batch) -> Params:
        def loss(own: Params, batch: Batch) -> Tensor:
            return learner.loss(own, batch) + self.lam / 2 * squared_distance(own, theta)

        start = {
            name: torch.where(memory["took_part"] > 0.5, memory[f"v.{name}"], value)
            for name, value in theta.items()
        }
        return self.adaptation.run(loss, start, local)


def _kept(own: Params, *, took_part: bool) -> Params:
    flag = next(iter(own.values())).new_full((), float(took_part))
    return {f"v.{name}": value for name, value in own.items()} | {"took_part": flag}
