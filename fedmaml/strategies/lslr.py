"""LSLR: the inner loop of MAML++, with a learned rate per layer and step, and a multi-step loss.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - alpha_t * grad L_support(phi_t),  t < K
                   alpha_t: one rate for every tensor of parameters; the last one from step K on
    client sends   grad in (theta, alpha) of  sum_t v_t L_query(phi_t),  t = 1 ... K, exact
    server         (theta, alpha) <- outer((theta, alpha), mean of both)
                   v moves from 1/K for every step to the last step alone, in ``anneal`` rounds

v is broadcast as a further group, so that clients need not know the round.
Antoniou, Edwards, Storkey. How to Train Your MAML. ICLR 2019, section 4. arXiv:1810.09502.
Deviation: of the paper's six changes these are two; the others belong to networks (batch
normalisation by step) or settings (cosine schedule). v falls to 0, not to a small rest. Clients are
weighted by their number of query examples. Where ``inner.epochs`` decides, K stays ``inner.steps``.
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
    Iterator,
    Kernel,
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
    end_of,
    example_count,
    field,
    gradient_and_value,
    map_params,
    outer_step,
    partial,
    replace,
    settings,
    whole_network,
    zeros_like,
)


@settings
class LSLR(MetaStrategy):
    """Federated MAML++ (LSLR and multi-step loss); equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike; lr is where alpha starts.
        outer: Optimiser of theta and alpha together.
        anneal: Rounds after which the last step alone counts; 0: from the start.
    """

    facts = Facts(
        "LSLR",
        "initialisation",
        takes_masks=True,
        kernel=Kernel("exact", step_weights="v", elsewhere=("anneal",)),
        adapts=Adapts(learned="alpha", by_step=True),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    anneal: Annotated[int, Ge(0)] = 100

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        theta, steps = state.meta["theta"], max(self.inner.steps, 1)
        alpha = map_params(lambda w: w.new_full((steps,), self.inner.lr), theta)
        like = next(iter(alpha.values()))
        meta = {"theta": theta, "alpha": alpha, "v": {"v": self._weights(0, like)}}
        return Initialised(learner, ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return partial(learner.apply, end_of(self._path(learner, meta, support), meta["theta"]))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        def query_loss(phi: Params) -> Tensor:
            return learner.query_loss(partial(learner.apply, phi), task.query)

        def objective(learned: MetaParams) -> Tensor:
            points = [*self._path(learner, learned, task.support)] or [learned["theta"]]
            v = meta["v"]["v"][-len(points) :]
            losses = [query_loss(phi) for phi in points[-len(v) :]]
            return (v * torch.stack(losses)).sum()

        learned = {group: meta[group] for group in ("theta", "alpha")}
        slope, after = gradient_and_value(objective, learned)
        metrics = {"loss_before": query_loss(meta["theta"]), "loss_after": after}
        update = slope | zeros_like({"v": meta["v"]})
        return ClientUpdate(update, example_count(task.query), metrics, memory)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        after = outer_step(self, state, update)
        v = self._weights(after.finished_rounds, state.meta["v"]["v"])
        return replace(after, meta=after.meta | {"v": {"v": v}})

    def _path(self, learner: Learner, meta: MetaParams, support: Batch) -> Iterator[Params]:
        def rule(step: int, before: Params, fast: Params, slope: Params) -> Params:
            del before
            return map_params(
                lambda w, g, rates: w - rates[min(step, len(rates) - 1)] * g,
                fast, slope, meta["alpha"],
            )  # fmt: skip

        return self.inner.path(learner.loss, meta["theta"], support, rule=rule)

    def _weights(self, finished_rounds: int, like: Tensor) -> Tensor:
        left = max(1 - finished_rounds / self.anneal, 0) if self.anneal else 0
        v = torch.full_like(like, left / len(like))
        v[-1] += 1 - left
        return v
