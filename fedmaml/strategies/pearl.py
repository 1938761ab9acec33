"""PEARL: a latent z, inferred from what a client saw, conditions the network; off-policy.

    network        biases b become b + U z: z is a further input of their layers
    posterior      q(z | c) = N(0, I) prod_i N(m_i, s_i^2),  (m_i, s_i^2) = e(c_i)
    adapt          ``every`` examples are played by z ~ q(z | c), each adds its row to c, and so on;
                   the predictor plays by z ~ q(z | c)                           (no inner loop)
    client keeps   D, the last ``replay`` examples that it played; it plays by z ~ q(z | c of D).
                   ``explored``: it plays by z ~ N(0, I) in half of the rounds, and c is of these
    client sends   g = grad_{theta, U, e} of L(batch of D; z) + kl KL(q(z | c) || N(0, I)),
                   z = mean + deviation * noise
    server         (theta, U, e) <- outer(..., mean of g over the cohort)
                   slow <- slow + rate (theta - slow), if the network has slow copies

z stays at the client. A network that does not act has data, and no D: c_i = [f(x_i), y_i] of the
support, f the network at z = 0 without its head; z = mean of q. Rakelly et al. Efficient Off-Policy
Meta-Reinforcement Learning via Probabilistic Context Variables. ICML 2019. arXiv:1903.08254.
Deviations: L is the scenario's; a round is one gradient step; unless ``explored``, c and the batch
are of the same D; an example's parts (steps) weigh as one; clients are weighted by their examples.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from fedmaml.core.gaussians import Gaussian
from fedmaml.core.replay import Recalls, recalled
from fedmaml.core.tasks import part_of
from fedmaml.strategies import latents
from fedmaml.strategies.prelude import (
    Batch,
    ClientUpdate,
    Draw,
    Facts,
    Generator,
    Initialised,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    ServerState,
    Task,
    Tensor,
    draws_of,
    example_count,
    field,
    gradient_and_value,
    joined,
    make_learner,
    outer_step,
    settings,
)

_PARTS, _MAX_ROWS = 16, 64  # of the noise that is drawn


@settings
class PEARL(MetaStrategy):
    """Federated PEARL; equations in the module docstring.

    Attributes:
        outer: Optimiser of theta, U and e together.
        latent: Numbers in z.
        hidden: Width of the two hidden layers of e.
        kl: Weight of the divergence, per nat.
        context: Most rows of c; 0: z is of the prior always.
        replay: Examples that D holds.
        batch: Examples of D in one update.
        every: Examples that are played between two posteriors.
        explored: Whether c is the last ``context`` examples that the prior played, kept apart.
        rate: By which slow copies follow theta.
    """

    facts = Facts(
        "PEARL", "model", second_derivatives=False, adapts_by="", takes_masks=True,
        metrics=("loss_after", "kl"), draws={"z": Draw((_PARTS, _MAX_ROWS)),
               "rows": Draw((2, _MAX_ROWS), "uniform"), "length": Draw((), "uniform"),
               "prior": Draw((), "uniform")},
    )  # fmt: skip

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    latent: Annotated[int, Gt(0), Le(_MAX_ROWS)] = 5
    hidden: Annotated[int, Gt(0)] = 64
    kl: Annotated[float, Ge(0)] = 0.001
    context: Annotated[int, Ge(0), Le(_MAX_ROWS)] = 40
    replay: Annotated[int, Gt(0)] = 400
    batch: Annotated[int, Gt(0), Le(_MAX_ROWS)] = 32
    every: Annotated[int, Gt(0)] = 8
    explored: bool = False
    rate: Annotated[float, Gt(0), Le(1)] = 0.01

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, theta = make_learner(problem.for_replay(), rng)
        apart = self.context if self.explored else 0
        learner, width, memory = latents.read_or_recalled(learner, theta, (self.replay, apart))
        theta, slow = latents.without_slow(theta)
        context = latents.inputs_of_latent(learner, theta, self.latent, rng)
        encoder = latents.new_encoder(width, self.hidden, self.latent, rng, problem.dtype)
        meta = {"theta": theta, "context": context, "encoder": encoder} | slow
        return Initialised(learner, ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        if not isinstance(learner.network, Recalls):
            q = latents.inferred(meta, latents.known_of(learner, meta, support))
            return latents.at_latent(learner, meta, q.mean)
        noise, seen = draws_of(support)["z"], support.y.new_zeros(0, learner.network.played)

        def at_part(part: int) -> Predictor:
            q = latents.inferred(meta, latents.context_of(learner, seen))
            return latents.at_latent(learner, meta, q.at(noise[part % _PARTS]))

        parts = range(0, len(support.y), self.every)
        for part, first in enumerate(parts):
            rows = at_part(part)(part_of(support, first, first + self.every).x)["played"]
            seen = torch.cat([seen, rows])[-self.context :] if self.context else seen
        return at_part(len(parts))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        acts, batch, after = isinstance(learner.network, Recalls), task.query, memory
        draws = draws_of(task.support)

        def posterior(meta: MetaParams) -> Gaussian:
            return latents.posterior(learner, meta, memory, task, self.context)

        before = posterior(meta)
        if acts:
            after = latents.collected(learner, meta, memory, task, before, self.every)
            again = recalled(after, draws["rows"][1, : self.batch])
            batch = Batch({"played": again}, again)

        def objective(meta: MetaParams) -> Tensor:
            q = posterior(meta)
            z = q.at(draws["z"][0]) if acts else q.mean
            loss = learner.query_loss(latents.at_latent(learner, meta, z), batch)
            return loss + self.kl * q.divergence()

        update, value = gradient_and_value(objective, meta)
        nats = before.divergence().detach()
        metrics = {"loss_after": value - self.kl * nats, "kl": nats}
        return ClientUpdate(update, example_count(joined(task) if acts else batch), metrics, after)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return latents.with_slow_copies(state, outer_step(self, state, update), self.rate)
