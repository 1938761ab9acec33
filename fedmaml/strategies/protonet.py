"""Prototypical networks: learn an embedding in which the mean of each class identifies it.

    adapt          c_m = mean of f(x) over the support examples of class m       (no inner loop)
                   predictor: logits_m(x) = - ||f(x) - c_m||^2
    client sends   g = grad_theta L_query(logits)          through query and prototypes alike
    server         theta <- outer(theta, mean of g over the cohort)

f is the network without its head; the head neither exists nor travels. A class without support
examples is never predicted: its logit lies 20 below the largest, so its probability is below e^-20.
Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017, eq. 1-2.
arXiv:1703.05175.
Deviation: clients are weighted by their number of query examples.
"""

import torch

from fedmaml.strategies.prelude import (
    Batch,
    Facts,
    Generator,
    Initialised,
    MetaStrategy,
    OuterOptimizer,
    Problem,
    ServerState,
    Tensor,
    UnsupportedProblemError,
    by_comparison,
    field,
    in_head,
    mask_of,
    meta_update,
    outer_step,
    settings,
    whole_network,
    without_head,
)

_MARGIN = 20.0  # bounded, so that queries of absent classes do not drown all others in training


@settings
class ProtoNet(MetaStrategy):
    """Federated prototypical networks; equations in the module docstring.

    Attributes:
        outer: Optimiser of the outer loop.
    """

    facts = Facts("ProtoNet", "metric", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        if problem.classes is None:
            raise UnsupportedProblemError(
                "protonet adapts by class means and needs a problem with classes "
                "(Problem(classes=...)); this one is a regression or has one binary logit"
            )
        learner, state, memory = whole_network(self, problem, rng)
        theta = {
            name: value for name, value in state.meta["theta"].items() if not in_head(problem, name)
        }
        return Initialised(without_head(learner), ServerState({"theta": theta}), memory)

    adapt = by_comparison

    def compare(self, problem: Problem, known: Batch, embedded: Tensor) -> Tensor:
        classes = torch.arange(problem.classes or 0, device=embedded.device)
        member = (known.y[:, None] == classes).to(embedded.dtype)  # (examples, classes)
        if (mask := mask_of(known)) is not None:
            member = member * mask[:, None]
        count = member.sum(0)
        prototypes = (member.T @ known.x) / count.clamp(min=1)[:, None]  # eq. 1
        absent = count == 0
        distance = (embedded[:, None] - prototypes).square().sum(-1)
        nearest = distance.masked_fill(absent, torch.inf).amin(-1, keepdim=True)
        return -torch.where(absent, nearest + _MARGIN, distance)  # eq. 2

    client_update = meta_update
    server_update = outer_step
