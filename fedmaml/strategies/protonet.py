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

from fedmaml.strategies.prelude import (
    Batch,
    Facts,
    Generator,
    Initialised,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Problem,
    Tensor,
    absent_last,
    by_comparison,
    class_means,
    compared,
    embedding,
    field,
    membership,
    meta_update,
    needs_classes,
    outer_step,
    settings,
)


@settings
class ProtoNet(MetaStrategy):
    """Federated prototypical networks; equations in the module docstring.

    Attributes:
        outer: Optimiser of the outer loop.
    """

    facts = Facts("ProtoNet", "metric", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        needs_classes(problem, "protonet", "class means")
        learner, body, _ = embedding(problem, rng)
        return compared(learner, body, {})

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        prototypes = class_means(problem, known)  # eq. 1
        distance = (embedded[:, None] - prototypes).square().sum(-1)
        return absent_last(-distance, membership(problem, known).any(0))  # eq. 2

    client_update = meta_update
    server_update = outer_step
