"""MAP: adapt towards the prior; its mean and its precisions are learned.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad F(phi_t),
                   F(phi) = L_support(phi) + 1/2 sum_j p_j (phi_j - theta_j)^2,   p = exp(rho)
    client sends   gradient of L_query(phi_k) in (theta, rho), exact
    server         (theta, rho) <- outer((theta, rho), mean of both)

F is the negative log posterior of phi under the prior N(theta, 1/p), for a loss that is a negative
log likelihood per example; what a client may change, and what it must not, is learned.
Grant, Finn, Levine, Darrell, Griffiths. Recasting Gradient-Based Meta-Learning as Hierarchical
Bayes. ICLR 2018, section 3. arXiv:1801.08930.
Deviation: the prior is explicit, where the paper's follows from early stopping. Clients are
weighted by their number of query examples.
"""

import math
from typing import Annotated

import torch
from annotated_types import Gt

from fedmaml.strategies.prelude import (
    Batch,
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
    ServerState,
    Tensor,
    field,
    map_params,
    meta_update,
    outer_step,
    partial,
    settings,
    squared_norm,
    whole_network,
)


@settings
class MAP(MetaStrategy):
    """Adaptation to the posterior mode; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike; lr * precision must stay < 2.
        outer: Optimiser of theta and rho together.
        precision: Where every p starts, > 0.
    """

    facts = Facts("MAP", "statistical", takes_masks=True)

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    precision: Annotated[float, Gt(0)] = 1.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        theta = state.meta["theta"]
        rho = map_params(lambda w: torch.full_like(w, math.log(self.precision)), theta)
        return Initialised(learner, ServerState({"theta": theta, "rho": rho}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        theta, rho = meta["theta"], meta["rho"]

        def posterior(phi: Params, batch: Batch) -> Tensor:
            far = map_params(lambda w, mean, r: (r / 2).exp() * (w - mean), phi, theta, rho)
            return learner.loss(phi, batch) + squared_norm(far) / 2

        return partial(learner.apply, self.inner.run(posterior, theta, support))

    client_update = meta_update
    server_update = outer_step
