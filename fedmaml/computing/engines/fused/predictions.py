"""Predictions of the kernel of `fused` at stages of adaptation, in one trajectory."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml import native
from fedmaml.computing.engines.base import Job, Memories
from fedmaml.computing.engines.fused.call import own_of, refuse_other_classes
from fedmaml.computing.engines.fused.chain import Chain
from fedmaml.computing.engines.fused.structures import Laid, Stages, group_of, network_of, recipe_of
from fedmaml.core.kernels import AdaptationSpec, KernelSpec
from fedmaml.core.params import flatten, layout_of
from fedmaml.core.tasks import TaskGroup

_KERNELS = {torch.float32: "fused_predictions_float32", torch.float64: "fused_predictions_float64"}


class Predicted(NamedTuple):
    """Predictions of the clients of a group, whose queries are of equal size.

    Attributes:
        values: ``(numbers of steps, clients, examples, outputs)``.
        sound: Whether they are finite, ``(numbers of steps, clients)``.
    """

    values: Tensor
    sound: Tensor


def predictions(
    job: Job,
    spec: AdaptationSpec,
    chain: Chain,
    groups: Sequence[TaskGroup],
    memories: Memories,
    steps: Sequence[int],
) -> list[Predicted]:
    """Return what clients predict for their queries after numbers of steps.

    Args:
        job: Strategy, learner and meta-parameters.
        spec: How the strategy adapts.
        chain: The network.
        groups: The clients' tasks.
        memories: Client -> what it keeps.
        steps: Numbers of steps, rising.

    Returns:
        The predictions of each group.

    Raises:
        ValueError: If a client has no examples, or they have another shape than the network's.
        IndexError: If a target is no class.
    """
    theta = flatten(job.meta["theta"])
    group = group_of(spec.adapts, chain, job.meta, "")
    own, kept = own_of(groups, memories, theta.dtype)
    laid = Laid(groups, chain, theta.dtype, own, with_query_targets=False)
    of_network = () if spec.adapts.own_model else kept
    layout, l2 = layout_of(job.meta["theta"]), job.learner.problem.l2
    _arrays, network = network_of(chain, layout, of_network, l2)
    own_model = spec if spec.adapts.own_model else None
    steps_of = KernelSpec("nothing", spec.inner, spec.pull, adapts=spec.adapts, own_model=own_model)
    recipe = recipe_of(steps_of, chain, group)
    wanted = np.array(steps, np.int32)
    found = [
        theta.new_empty(
            len(steps), len(group.clients), group.tasks.query.x.shape[1], chain.widths[-1]
        )
        for group in groups
    ]
    to, apart = _places(found)
    sound = np.empty((len(steps), len(to)), np.bool_)
    arrays = (wanted, to, apart, sound)
    stages = Stages(len(steps), *(array.ctypes.data for array in arrays))
    getattr(native.library(), _KERNELS[theta.dtype])(
        *map(ctypes.byref, (network, recipe)), ctypes.c_void_p(theta.data_ptr()),
        *map(ctypes.byref, (laid.arguments, stages)),
        ctypes.c_int32(native.threads()),
    )  # fmt: skip
    if chain.loss == 1 and not sound.all():
        refuse_other_classes(groups, chain.widths[-1])
    sizes = [values.shape[1] for values in found]
    return [*map(Predicted, found, torch.split(torch.from_numpy(sound), sizes, dim=1))]


def _places(found: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each client's predictions begin, and the entries between stages."""
    to, apart = [], []
    for values in found:
        clients, entries = values.shape[1], values[0, 0].numel()
        to.append(values.data_ptr() + np.arange(clients) * entries * values.element_size())
        apart.append(np.full(clients, clients * entries))
    return np.concatenate(to), np.concatenate(apart)
