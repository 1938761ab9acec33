"""RL^2: a recurrent network reads the episodes of a task, and its hidden state is what it learned.

    adapt          h_0 = 0,  h_i = GRU(h_{i-1}, [f(x_i), y_i])     over the support, in its order
                   predictor: logits(x) = W GRU(h_n, [f(x), 0]) + b
                   z = s(A_z u + B_z h + c_z)                       the GRU on input u
                   r = s(A_r u + B_r h + c_r)
                   GRU(h, u) = z h + (1 - z) tanh(A u + B (r h) + c)
    client sends   g = grad L_query(logits), in f, GRU, W and b
    server         theta <- outer(theta, mean of g over the cohort)

f is the network without its head, at work on one episode; y_i the outcome of episode i, one-hot.
The hidden state is carried from episode to episode and belongs to one task. s is the logistic
function.
Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel. RL^2: Fast Reinforcement Learning via Slow
Reinforcement Learning. 2016. arXiv:1611.02779. GRU: Cho et al. 2014, eq. 5-8. arXiv:1406.1078.
Deviation: the query loss is differentiated; the paper's environments cannot be, and it takes TRPO.
"""

from typing import Annotated

import torch
from annotated_types import Gt

from fedmaml.strategies.prelude import (
    Batch,
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
    Tensor,
    UnsupportedProblemError,
    field,
    in_head,
    mask_of,
    meta_update,
    outer_step,
    settings,
    whole_network,
    without_head,
)


@settings
class RecurrentPolicy(MetaStrategy):
    """RL^2; equations in the module docstring. GRU, W and b are the group ``cell`` of ``meta``.

    Attributes:
        outer: Optimiser of the outer loop.
        width: Entries of the hidden state.
    """

    facts = Facts("RL^2", "other", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    width: Annotated[int, Gt(0)] = 8

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        if problem.classes is None:
            raise UnsupportedProblemError(
                "recurrent_policy reads outcomes that are classes (Problem(classes=...)); this "
                "problem is a regression or has one binary logit"
            )
        learner, state, memory = whole_network(self, problem, rng)
        body = without_head(learner)
        theta = state.meta["theta"]
        features = _inputs_of_head(problem, theta) + problem.classes
        shapes = {
            "z": (self.width, features + self.width),
            "r": (self.width, features + self.width),
            "candidate": (self.width, features + self.width),
            "readout": (problem.classes, self.width),
        }
        cell = {}
        for name, shape in shapes.items():
            drawn = torch.randn(shape, generator=rng, dtype=problem.dtype)
            cell[f"{name}.weight"] = drawn / shape[1] ** 0.5
            cell[f"{name}.bias"] = torch.zeros(shape[0], dtype=problem.dtype)
        theta = {name: value for name, value in theta.items() if not in_head(problem, name)}
        return Initialised(body, ServerState({"theta": theta, "cell": cell}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        cell = meta["cell"]
        seen = learner.apply(meta["theta"], support.x).flatten(1)
        classes = torch.arange(learner.problem.classes or 0, device=support.y.device)
        outcomes = (support.y[:, None] == classes).to(seen.dtype)
        mask = mask_of(support)
        hidden = seen.new_zeros(self.width)
        for row, episode in enumerate(torch.cat([seen, outcomes], 1)):
            after = _gru(cell, hidden, episode)
            hidden = after if mask is None else torch.where(mask[row], after, hidden)

        def predict(x: Tensor) -> Tensor:
            asked = learner.apply(meta["theta"], x).flatten(1)
            empty = asked.new_zeros(len(asked), len(classes))
            state = _gru(cell, hidden.expand(len(asked), -1), torch.cat([asked, empty], 1))
            return _linear(cell, "readout", state)

        return predict

    client_update = meta_update
    server_update = outer_step


def _inputs_of_head(problem: Problem, theta: Params) -> int:
    """Return what the body yields, which is what the head takes."""
    for name, value in theta.items():
        if in_head(problem, name) and value.ndim == 2:
            return value.shape[1]
    raise UnsupportedProblemError(
        f"recurrent_policy takes the width of an embedding from the linear layer of the head "
        f"{problem.head!r}, which has none; end the network in nn.Linear"
    )


def _gru(cell: Params, hidden: Tensor, given: Tensor) -> Tensor:
    both = torch.cat([given, hidden], -1)
    z, r = (_linear(cell, gate, both).sigmoid() for gate in "zr")
    candidate = _linear(cell, "candidate", torch.cat([given, r * hidden], -1)).tanh()
    return z * hidden + (1 - z) * candidate


def _linear(cell: Params, name: str, given: Tensor) -> Tensor:
    return given @ cell[f"{name}.weight"].mT + cell[f"{name}.bias"]
