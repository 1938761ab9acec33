"""RL^2: a recurrent network whose state is all that it learns of a task; no gradient adapts it.

    a trial        h_0 = 0,  (action_t, h_t) = network(h_{t-1}, observation, last action and reward)
    adapt          nothing: every trial contains its own support
    client sends   g = grad_theta L(trials of support and query)
    server         theta <- outer(theta, mean of g over the cohort)

The network's forward pass plays a trial from an empty state (`simulations.environments.pulling`),
so what a task is like is found out within it, by what weights that saw many tasks make of it. On a
network without a state this is one gradient step of averaging, federated SGD.

Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel. RL^2: Fast Reinforcement Learning via Slow
Reinforcement Learning. 2016. arXiv:1611.02779.
Deviation: the scenario's loss, a plain policy gradient, in the place of TRPO; clients are weighted
by their number of trials.
"""

from fedmaml.strategies.prelude import (
    Batch,
    ClientUpdate,
    Facts,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Task,
    example_count,
    field,
    gradient_and_value,
    joined,
    outer_step,
    partial,
    settings,
    whole_network,
)


@settings
class RL2(MetaStrategy):
    """RL^2; equations in the module docstring.

    Attributes:
        outer: Optimiser of the outer loop.
    """

    facts = Facts("RL^2", "model", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return partial(learner.apply, meta["theta"])

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        trials = joined(task)
        update, loss = gradient_and_value(lambda theta: learner.loss(theta, trials), meta["theta"])
        return ClientUpdate({"theta": update}, example_count(trials), {"loss_after": loss}, memory)

    server_update = outer_step
