"""The meta-gradient: how the query loss after adaptation changes with the meta-parameters."""

from collections.abc import Callable

from torch import Tensor

from fedmaml.core.gradients import gradient_and_value
from fedmaml.core.learner import Learner, Predictor
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Batch, Task

Adapt = Callable[[Learner, MetaParams, Params, Batch], Predictor]


def meta_gradient(
    adapt: Adapt, learner: Learner, meta: MetaParams, memory: Params, task: Task
) -> tuple[MetaParams, Tensor]:
    """Differentiate the query loss through adaptation.

        g = grad_meta L_query(adapt(meta, support))

    The gradient is exact: whatever ``adapt`` computes is differentiated, inner gradient steps
    included (which gives second derivatives). A strategy without them holds gradients constant in
    its own ``adapt`` (`GradientSteps.run(first_order=True)`).

    Args:
        adapt: The strategy's verb.
        learner: Network and loss.
        meta: Point of differentiation; not changed.
        memory: What the client keeps; held constant.
        task: Support to adapt on, query to evaluate on.

    Returns:
        The gradient, shaped like ``meta``, and the query loss after adaptation.
    """

    def query_loss(meta: MetaParams) -> Tensor:
        return learner.query_loss(adapt(learner, meta, memory, task.support), task.query)

    return gradient_and_value(query_loss, meta)
