"""Empirical Bayes: a prior over the clients' linear models, estimated from federated moments.

    model          y = z w + noise,  w ~ N(m, S),  noise ~ N(0, s),  z = [f(x), 1]
    adapt          mu = m + K (y - Z m),  K = S Z' (Z S Z' + s I)^-1:  the posterior mean of w
                   predictor: z mu
    client sends   its moments of one E-step, as differences from the prior: m - mu,
                   S - V - (mu - m)(mu - m)',  s - (||y - Z mu||^2 + tr Z V Z') / n,
                   V = S - K Z S; and the gradient in f of -log N(y; Z m, Z S Z' + s I) / n
    server         one M-step: m <- mean mu,  S <- mean of (V + (mu - m)(mu - m)'),  s <- mean;
                   f <- outer(f, mean gradient)

Z, y are all examples of a client in training, its support where it adapts. m is the network's head;
a network that is all head is a linear model of its inputs. From a broad prior the first round finds
the moments of the clients' least-squares fits; further rounds climb to maximum likelihood.
Laird, Ware. Random-Effects Models for Longitudinal Data. Biometrics 38, 1982, section 4 (EM). As
meta-learning: Grant et al. 2018. arXiv:1801.08930.
Deviation: clients count alike, whatever their number of examples.
"""

from typing import Annotated

import torch
from annotated_types import Gt

from fedmaml.core.losses import half_squared_error, squared_error
from fedmaml.strategies.prelude import (
    Batch,
    ClientUpdate,
    Facts,
    Generator,
    Initialised,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Prior,
    Problem,
    ServerState,
    Task,
    Tensor,
    UnsupportedProblemError,
    body_and_head,
    example_count,
    field,
    flatten,
    gradient,
    head_examples,
    joined,
    layout_of,
    linear_prediction,
    outer_step,
    partial,
    replace,
    settings,
    stepped,
    unflatten,
    whole_network,
    without_head,
)


@settings
class EmpiricalBayes(MetaStrategy):
    """Hierarchical ridge; equations in the module docstring. S and s are the group ``prior``.

    Attributes:
        outer: Optimiser of the body f, if the network has one.
        spread: S starts at spread * I, > 0.
        noise: Where s starts, > 0.
    """

    facts = Facts(
        "Empirical Bayes", "statistical", second_derivatives=False, adapts_by="", takes_masks=True
    )

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    spread: Annotated[float, Gt(0)] = 1.0
    noise: Annotated[float, Gt(0)] = 1.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        body, head = body_and_head(problem, state.meta["theta"])
        outputs = [len(value) for value in head.values() if value.ndim == 2]
        if problem.loss not in (squared_error, half_squared_error) or outputs != [1]:
            raise UnsupportedProblemError(
                "empirical_bayes needs a squared loss of fedmaml.core.losses, and a head that is a "
                "linear layer with one output"
            )
        spread = self.spread * torch.eye(len(flatten(head)), dtype=problem.dtype)
        noise = torch.tensor(self.noise, dtype=problem.dtype)
        prior = {f"{problem.head}.covariance": spread, f"{problem.head}.noise": noise}
        learner = without_head(learner) if body else learner
        return Initialised(learner, ServerState({**state.meta, "prior": prior}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        theta = meta["theta"]
        mean, _ = _prior(meta).posterior(*head_examples(learner, theta, support))
        return partial(linear_prediction, learner, theta, mean)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        theta, prior, local = meta["theta"], _prior(meta), joined(task)
        body, head = body_and_head(learner.problem, theta)
        z, y = head_examples(learner, theta, local)
        count = example_count(local)
        mean, covariance = prior.posterior(z, y)
        moved = mean - prior.mean
        left = (y - z @ mean).square().sum() + (z @ covariance * z).sum()
        spread = prior.spread - covariance - torch.outer(moved, moved)
        moments = {"covariance": spread, "noise": prior.noise - left / count.to(left.dtype)}

        def evidence(body: Params) -> Tensor:
            z, y = head_examples(learner, body | head, local)
            return prior.negative_log_evidence(z, y, count.to(z.dtype))

        steps = (gradient(evidence, body) if body else {}) | unflatten(-moved, layout_of(head))
        update = {
            "theta": {name: steps[name] for name in theta},
            "prior": {name: moments[name.rpartition(".")[2]] for name in meta["prior"]},
        }
        adapted = self.adapt(learner, meta, memory, task.support)
        metrics = {"loss_after": learner.query_loss(adapted, task.query)}
        return ClientUpdate(update, torch.ones_like(count), metrics, memory)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        theta, prior = state.meta["theta"], state.meta["prior"]
        head = [name for name in theta if name.startswith(_head_of(prior))]
        moved = flatten({name: update["theta"][name] for name in head})
        after = outer_step(self, replace(state, meta={"theta": theta}), update)
        mean = stepped({name: theta[name] for name in head}, update["theta"])
        spread = f"{_head_of(prior)}covariance"
        about_mean = update["prior"][spread] + torch.outer(moved, moved)
        prior = stepped(prior, update["prior"] | {spread: about_mean})
        return replace(after, meta={"theta": after.meta["theta"] | mean, "prior": prior})


def _head_of(prior: Params) -> str:
    """Return how the names of the head begin: those of its prior begin so, too."""
    return next(iter(prior)).rpartition(".")[0] + "."


def _prior(meta: MetaParams) -> Prior:
    theta, prior, name = meta["theta"], meta["prior"], _head_of(meta["prior"])
    mean = flatten({own: value for own, value in theta.items() if own.startswith(name)})
    return Prior(mean, prior[f"{name}covariance"], prior[f"{name}noise"])
