"""SCAFFOLD: control variates take the drift of unequal clients out of federated averaging.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * (grad L_local(phi_t) - c_i + c)
                   c_i' = c_i - c + (theta - phi_k) / (k inner.lr)         (option II)
    client keeps   c_i, from round to round (its memory); 0 at first
    client sends   theta - phi_k  and  c_i - c_i'
    server         theta <- outer(theta, mean of theta - phi),
                   c <- c - participation * mean of (c_i - c_i')
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``

Its fixed point is the minimum of the mean loss, however many steps the clients take: there
c_i = grad L_i(theta) and c = 0. The group ``control`` of the meta-parameters is c.
Karimireddy, Kale, Mohri, Reddi, Stich, Suresh. SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning. ICML 2020, Algorithm 1. arXiv:1910.06378.
Deviations: clients are weighted by their number of examples; the share of clients in a round,
|S| / N of the paper, is a setting, as the server of a federation need not know N.
"""

from typing import Annotated

import torch
from annotated_types import Gt, Le

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
    Problem,
    ServerState,
    Task,
    end_of,
    example_count,
    field,
    fine_tuned,
    gradient,
    joined,
    map_params,
    outer_step,
    replace,
    settings,
    stepped,
    subtract,
    whole_network,
)


@settings
class Scaffold(MetaStrategy):
    """SCAFFOLD; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of theta; the default replaces it by the mean of phi.
        adaptation: Gradient steps of fine-tuning.
        participation: Share of all clients that take part in a round, in (0, 1].
    """

    facts = Facts(
        "SCAFFOLD",
        "personalised",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)
    participation: Annotated[float, Gt(0), Le(1)] = 1.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, _ = whole_network(self, problem, rng)
        control = map_params(torch.zeros_like, state.meta["theta"])
        memory = {f"c.{name}": value for name, value in control.items()}
        return Initialised(learner, ServerState(state.meta | {"control": control}), memory)

    adapt = fine_tuned

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        theta, common, local = meta["theta"], meta["control"], joined(task)
        own = {name: memory[f"c.{name}"] for name in theta}

        def corrected(phi: Params, part: Batch) -> Params:
            slope = gradient(lambda w: learner.loss(w, part), phi)
            return map_params(lambda g, mine, c: g - mine + c, slope, own, common)

        phi = end_of(self.inner.follow(corrected, theta, local), theta)
        length = self.inner.lr * max(self.inner.count(local), 1)
        drift = subtract(theta, phi)
        control = map_params(lambda mine, c, d: mine - c + d / length, own, common, drift)
        metrics = {
            "loss_before": learner.loss(theta, local),
            "loss_after": learner.loss(phi, local),
        }
        update = {"theta": drift, "control": subtract(own, control)}
        kept = {f"c.{name}": value for name, value in control.items()}
        return ClientUpdate(update, example_count(local), metrics, kept)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        theta = {"theta": state.meta["theta"]}
        after = outer_step(self, replace(state, meta=theta), update)
        control = stepped(state.meta["control"], update["control"], self.participation)
        return replace(after, meta=after.meta | {"control": control})
