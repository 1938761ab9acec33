"""PEARL: a latent z, inferred from what a client saw, conditions the network; off-policy.

    network        its first bias b becomes b + U z: z is a further input of that layer
    posterior      q(z | c) = N(0, I) prod_i N(m_i, s_i^2),  (m_i, s_i^2) = e(c_i)
    adapt          ``every`` examples are played by z ~ q(z | c), each adds its row to c, and so on;
                   the predictor plays by z ~ q(z | c)                           (no inner loop)
    client keeps   D, the last ``replay`` examples that it played; it plays by z ~ q(z | c of D)
    client sends   g = grad_{theta, U, e} of L(batch of D; z) + kl KL(q(z | c) || N(0, I)),
                   z = mean + deviation * noise
    server         (theta, U, e) <- outer(..., mean of g over the cohort)

z stays at the client. A network that does not act has data, and no D: c_i = [f(x_i), y_i] of the
support, f the network at z = 0 without its head; z = mean of q.
Rakelly, Zhou, Quillen, Finn, Levine. Efficient Off-Policy Meta-Reinforcement Learning via
Probabilistic Context Variables. ICML 2019, Algorithms 1 and 2. arXiv:1903.08254.
Deviations: the scenario's loss in the place of SAC's, so actor and critics are one network; c and
the batch are drawn from the same D; clients are weighted by their number of examples.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from fedmaml.core.gaussians import Gaussian
from fedmaml.core.replay import Recalls, recalled, remembered
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
    conditioned,
    draws_of,
    example_count,
    field,
    gradient_and_value,
    inputs_of_first_bias,
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
    """

    facts = Facts(
        "PEARL", "model", second_derivatives=False, adapts_by="", takes_masks=True,
        metrics=("loss_after", "kl"), draws={"z": Draw((_PARTS, _MAX_ROWS)),
               "rows": Draw((2, _MAX_ROWS), "uniform"), "length": Draw((), "uniform")},
    )  # fmt: skip

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    latent: Annotated[int, Gt(0), Le(_MAX_ROWS)] = 5
    hidden: Annotated[int, Gt(0)] = 64
    kl: Annotated[float, Ge(0)] = 0.001
    context: Annotated[int, Ge(0), Le(_MAX_ROWS)] = 40
    replay: Annotated[int, Gt(0)] = 400
    batch: Annotated[int, Gt(0), Le(_MAX_ROWS)] = 32
    every: Annotated[int, Gt(0)] = 8

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, theta = make_learner(problem, rng)
        learner, width, memory = latents.read_or_recalled(learner, theta, self.replay)
        context = inputs_of_first_bias("pearl", learner, theta, self.latent, rng)
        encoder = latents.new_encoder(width, self.hidden, self.latent, rng, problem.dtype)
        meta = {"theta": theta, "context": context, "encoder": encoder}
        return Initialised(learner, ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        network, encoder = learner.network, meta["encoder"]
        if not isinstance(network, Recalls):
            q = latents.inferred(encoder, *latents.known_of(learner, meta["theta"], support))
            return latents.with_own_head(learner, conditioned(meta, q.mean))
        noise, known = draws_of(support)["z"], support.y.new_zeros(0, network.context)
        parts = range(0, len(support.y), self.every)
        for part, first in enumerate(parts):
            fast = conditioned(meta, latents.inferred(encoder, known).at(noise[part % _PARTS]))
            rows = learner.apply(fast, part_of(support, first, first + self.every).x)["played"]
            known = torch.cat([known, network.context_of(rows)])
            known = known[max(len(known) - self.context, 0) :]
        z = latents.inferred(encoder, known).at(noise[len(parts) % _PARTS])
        return latents.with_own_head(learner, conditioned(meta, z))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        acts, batch, context = isinstance(learner.network, Recalls), task.query, None
        if acts:
            batch, context, memory = self._played(learner, meta, memory, task)

        def posterior(meta: MetaParams) -> Gaussian:
            rows = context or latents.known_of(learner, meta["theta"], task.support)
            return latents.inferred(meta["encoder"], *rows)

        def objective(meta: MetaParams) -> Tensor:
            q = posterior(meta)
            z = q.at(draws_of(task.support)["z"][0]) if acts else q.mean
            loss = learner.query_loss(latents.with_own_head(learner, conditioned(meta, z)), batch)
            return loss + self.kl * q.divergence()

        update, value = gradient_and_value(objective, meta)
        nats = posterior(meta).divergence().detach()
        metrics = {"loss_after": value - self.kl * nats, "kl": nats}
        return ClientUpdate(update, example_count(joined(task) if acts else batch), metrics, memory)

    server_update = outer_step

    def _played(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> tuple[Batch, latents.Context, Params]:
        """Play all examples of this round; return a batch of D, c of D before, and D."""
        draws = draws_of(task.support)
        context = latents.recalled_context(learner, memory, self.context, draws)
        z = latents.inferred(meta["encoder"], *context).at(draws["z"][0])
        memory = remembered(memory, learner.apply(conditioned(meta, z), joined(task).x)["played"])
        again = recalled(memory, draws["rows"][1, : self.batch])
        return Batch({"played": again}, again), context, memory
