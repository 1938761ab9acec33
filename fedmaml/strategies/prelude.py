"""Everything that the file of a strategy needs, in one import."""

from collections.abc import Callable, Iterator
from dataclasses import field, replace
from functools import partial

from torch import Generator, Tensor

from fedmaml.core.cells import linear, lstm, new_linear, new_lstm
from fedmaml.core.draws import Draw
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.gradients import gradient, gradient_and_value
from fedmaml.core.inner_loop import GradientSteps, Loss, end_of
from fedmaml.core.kernels import Adapts, Kernel
from fedmaml.core.learner import (
    Learner,
    Predictor,
    Problem,
    body_and_head,
    in_head,
    make_learner,
    without_head,
)
from fedmaml.core.linear import Prior, flat_inputs, head_matrix, ridge, with_ones
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import (
    MetaParams,
    Params,
    flatten,
    layout_of,
    map_params,
    squared_distance,
    squared_norm,
    stepped,
    subtract,
    unflatten,
    zeros_like,
)
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, draws_of, example_count, joined, mask_of
from fedmaml.core.trees import Tree
from fedmaml.strategies.base import ClientUpdate, Facts, Initialised, MetaStrategy, ServerState
from fedmaml.strategies.comparing import (
    LEARNED,
    absent_last,
    attention,
    by_attention,
    by_comparison,
    class_means,
    compared,
    cosines,
    embedding,
    mean_over_support,
    membership,
    needs_classes,
    shown,
    sizes_of,
)
from fedmaml.strategies.parts import (
    conditioned,
    fine_tuned,
    head_examples,
    inputs_of_first_bias,
    linear_prediction,
    local_update,
    meta_update,
    network_with_head,
    outer_step,
    train_locally,
    whole_network,
)

__all__ = [
    "LEARNED",
    "Adapts",
    "Batch",
    "Callable",
    "ClientUpdate",
    "Draw",
    "Facts",
    "Generator",
    "GradientSteps",
    "Initialised",
    "Iterator",
    "Kernel",
    "Learner",
    "Loss",
    "MetaParams",
    "MetaStrategy",
    "OuterOptimizer",
    "Params",
    "Predictor",
    "Prior",
    "Problem",
    "ServerState",
    "Task",
    "Tensor",
    "Tree",
    "UnsupportedProblemError",
    "absent_last",
    "attention",
    "body_and_head",
    "by_attention",
    "by_comparison",
    "class_means",
    "compared",
    "conditioned",
    "cosines",
    "draws_of",
    "embedding",
    "end_of",
    "example_count",
    "field",
    "fine_tuned",
    "flat_inputs",
    "flatten",
    "gradient",
    "gradient_and_value",
    "head_examples",
    "head_matrix",
    "in_head",
    "inputs_of_first_bias",
    "joined",
    "layout_of",
    "linear",
    "linear_prediction",
    "local_update",
    "lstm",
    "make_learner",
    "map_params",
    "mask_of",
    "mean_over_support",
    "membership",
    "meta_gradient",
    "meta_update",
    "needs_classes",
    "network_with_head",
    "new_linear",
    "new_lstm",
    "outer_step",
    "partial",
    "replace",
    "ridge",
    "settings",
    "shown",
    "sizes_of",
    "squared_distance",
    "squared_norm",
    "stepped",
    "subtract",
    "train_locally",
    "unflatten",
    "whole_network",
    "with_ones",
    "without_head",
    "zeros_like",
]
