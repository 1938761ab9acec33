"""q-FedAvg: clients with a larger loss weigh more, the more so the larger q.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_local(phi_t)
    client sends   F^q D  and  h = q F^(q-1) ||D||^2 + L F^q,   where F = L_local(theta),
                   D = L (theta - phi_k),  L = 1 / inner.lr
    server         theta <- theta - (mean of F^q D) / (mean of h)
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``

The objective is sum_i p_i F_i^(q+1) / (q+1); h bounds its curvature, so no outer rate is needed.
q = 0 is FedAvg. h is a further group of the meta-parameters, one number.
Li, Sanjabi, Beirami, Smith. Fair Resource Allocation in Federated Learning. ICLR 2020, Algorithm 2.
arXiv:1905.10497.
Deviation: clients are drawn uniformly and weighted by their number of examples (p_i), where the
paper draws them by p_i and weights them equally.
"""

from typing import Annotated

from annotated_types import Ge

from fedmaml.strategies.prelude import (
    ClientUpdate,
    Facts,
    Generator,
    GradientSteps,
    Initialised,
    Learner,
    MetaParams,
    MetaStrategy,
    Params,
    Problem,
    ServerState,
    Task,
    field,
    fine_tuned,
    local_update,
    map_params,
    replace,
    settings,
    squared_norm,
    stepped,
    whole_network,
)

_SMALLEST_LOSS = 1e-10  # F^(q-1) of a loss of 0 is infinite for q < 1


@settings
class QFedAvg(MetaStrategy):
    """q-FedAvg; equations in the module docstring.

    Attributes:
        inner: Local steps in training; 1 / lr is the paper's L.
        adaptation: Gradient steps of fine-tuning.
        q: Strength of fairness, >= 0.
    """

    facts = Facts(
        "q-FedAvg",
        "personalised",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    adaptation: GradientSteps = field(default_factory=GradientSteps)
    q: Annotated[float, Ge(0)] = 1.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        h = next(iter(state.meta["theta"].values())).new_ones(())
        return Initialised(learner, ServerState(state.meta | {"h": {"h": h}}), memory)

    adapt = fine_tuned

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        bound = 1 / self.inner.lr
        sent = local_update(self, learner, meta, memory, task)
        loss = sent.metrics["loss_before"].clamp_min(_SMALLEST_LOSS)
        moved = map_params(lambda d: bound * d, sent.update["theta"])
        h = self.q * loss ** (self.q - 1) * squared_norm(moved) + bound * loss**self.q
        step = map_params(lambda d: loss**self.q * d, moved)
        return sent._replace(update={"theta": step, "h": {"h": h}})

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        theta, h = state.meta["theta"], update["h"]["h"]
        theta = stepped(theta, update["theta"], 1 / h)
        kept = h.to(state.meta["h"]["h"].dtype)
        meta = {"theta": theta, "h": {"h": kept}}
        return replace(state, meta=meta, finished_rounds=state.finished_rounds + 1)
