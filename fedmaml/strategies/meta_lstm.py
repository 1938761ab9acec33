"""Meta-LSTM: the optimiser is a recurrent network, whose cell is the parameters.

    adapt          h_t = LSTM([g_t, l_t], h_{t-1}) for each parameter, g_t, l_t: gradient and loss
                   f_t = sigmoid(w_f [h_t, theta_{t-1}, f_{t-1}] + b_f)       what is kept
                   i_t = sigmoid(w_i [h_t, theta_{t-1}, i_{t-1}] + b_i)       the rate
                   theta_t = f_t theta_{t-1} - i_t grad L_support(theta_{t-1})
    client sends   gradient of L_query(theta_k) in theta_0 and the optimiser, in which gradients
                   and losses of the steps are constants: no second derivatives
    server         (theta_0, optimiser) <- outer(..., mean over the cohort)

All parameters share one optimiser, and each has a state of its own. g_t and l_t enter as
(log|v| / 10, sign v), or (-1, e^10 v) where |v| < e^-10. f starts near 1 and i near inner.lr, so
that the first steps are those of gradient descent.
Ravi, Larochelle. Optimization as a Model for Few-Shot Learning. ICLR 2017, eq. 2-7. With the inputs
of Andrychowicz et al. 2016, arXiv:1606.04474, appendix A.
Deviation: clients are weighted by their number of query examples.
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
    UnsupportedProblemError,
    field,
    flatten,
    gradient_and_value,
    layout_of,
    linear,
    lstm,
    meta_update,
    new_linear,
    new_lstm,
    outer_step,
    partial,
    settings,
    unflatten,
    whole_network,
)

_KEPT = 7.0  # sigmoid(7) = 0.999: b_f at the start
_P = 10.0  # of the inputs


@settings
class MetaLSTM(MetaStrategy):
    """Federated Meta-LSTM; equations in the module docstring. The optimiser is ``optimizer``.

    Attributes:
        inner: Steps, in training and in adaptation alike; lr, < 1, is where i starts.
        outer: Optimiser of theta_0 and the optimiser together.
        hidden: Width of h.
    """

    facts = Facts("Meta-LSTM", "initialisation", second_derivatives=False)

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    hidden: Annotated[int, Gt(0)] = 20

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        if self.inner.lr >= 1:
            raise UnsupportedProblemError(
                f"inner.lr = {self.inner.lr:g}: meta_lstm's rates are sigmoids, below 1; choose a "
                "smaller one"
            )
        learner, state, memory = whole_network(self, problem, rng)
        learned = new_lstm("lstm", 4 + self.hidden, self.hidden, rng, problem.dtype)
        rate = math.log(self.inner.lr / (1 - self.inner.lr))
        for name, start in (("keep", _KEPT), ("rate", rate)):
            gate = new_linear(name, self.hidden + 2, 1, rng, problem.dtype)
            learned |= {f"{name}.weight": 0.01 * gate[f"{name}.weight"]}
            learned |= {f"{name}.bias": torch.full_like(gate[f"{name}.bias"], start)}
        meta = {**state.meta, "optimizer": learned}
        return Initialised(learner, ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        theta, learned = meta["theta"], meta["optimizer"]
        layout, point = layout_of(theta), flatten(theta)
        h = cell = point.new_zeros(len(point), self.hidden)
        kept = rate = torch.zeros_like(point)
        for step, part in enumerate(self.inner.parts(support)):
            fast = {name: value.detach() for name, value in unflatten(point, layout).items()}
            along, loss = gradient_and_value(partial(_loss, learner, part), fast, again=False)
            slope = flatten(self.inner.scaled(along, step)).detach()
            seen = torch.cat([_scaled(slope), _scaled(loss.detach().expand_as(slope))], -1)
            h, cell = lstm(learned, "lstm", torch.cat([seen, h], -1), cell)
            kept = _gate(learned, "keep", h, point, kept)
            rate = _gate(learned, "rate", h, point, rate)
            point = kept * point - rate * slope  # eq. 2-4
        return partial(learner.apply, unflatten(point, layout))

    client_update = meta_update
    server_update = outer_step


def _loss(learner: Learner, batch: Batch, params: Params) -> Tensor:
    return learner.loss(params, batch)


def _gate(learned: Params, name: str, h: Tensor, point: Tensor, before: Tensor) -> Tensor:
    inputs = torch.cat([h, point[:, None], before[:, None]], -1)
    return linear(learned, name, inputs).sigmoid()[:, 0]


def _scaled(value: Tensor) -> Tensor:
    """Return numbers of any size as two of moderate size, ``(..., 2)``."""
    large = value.abs() >= math.exp(-_P)
    log = value.abs().clamp_min(math.exp(-_P)).log() / _P
    return torch.stack([torch.where(large, log, -1.0),
                        torch.where(large, value.sign(), math.exp(_P) * value)], -1)  # fmt: skip
