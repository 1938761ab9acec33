"""Everything that the file of a strategy needs, in one import."""

from dataclasses import field, replace
from functools import partial

from torch import Generator, Tensor

from fedmaml.core.draws import Draw
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.inner_loop import GradientSteps, Loss
from fedmaml.core.kernels import Adapts, Kernel
from fedmaml.core.learner import (
    Learner,
    Predictor,
    Problem,
    in_head,
    make_learner,
    without_head,
)
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import (
    MetaParams,
    Params,
    map_params,
    squared_distance,
    squared_norm,
    subtract,
    zeros_like,
)
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, draws_of, example_count, joined, mask_of
from fedmaml.strategies.base import ClientUpdate, Facts, Initialised, MetaStrategy, ServerState
from fedmaml.strategies.parts import (
    by_comparison,
    local_update,
    meta_update,
    outer_step,
    train_locally,
    whole_network,
)

__all__ = [
    "Adapts",
    "Batch",
    "ClientUpdate",
    "Draw",
    "Facts",
    "Generator",
    "GradientSteps",
    "Initialised",
    "Kernel",
    "Learner",
    "Loss",
    "MetaParams",
    "MetaStrategy",
    "OuterOptimizer",
    "Params",
    "Predictor",
    "Problem",
    "ServerState",
    "Task",
    "Tensor",
    "UnsupportedProblemError",
    "by_comparison",
    "draws_of",
    "example_count",
    "field",
    "in_head",
    "joined",
    "local_update",
    "make_learner",
    "map_params",
    "mask_of",
    "meta_gradient",
    "meta_update",
    "outer_step",
    "partial",
    "replace",
    "settings",
    "squared_distance",
    "squared_norm",
    "subtract",
    "train_locally",
    "whole_network",
    "without_head",
    "zeros_like",
]
