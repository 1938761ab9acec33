"""Convolution, group normalisation and pooling as one step, as `block` has it for the batch.

An image is normalised by itself. With m and r the mean and 1 / deviation of a group of its
channels, which are the same for all of them, and n the numbers of a group,

    z = conv(x)    p = pool(z)    y = scale * (p - m) r + shift
    dz = r (q - sum(q) / n - (z - m) r * sum(q (p - m) r) / n)     q = scale * e, sums over a group

where e is the derivative by y, brought to the places that the pool chose. The largest of a window
is found before normalisation, so every scale must be positive.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml import native
from fedmaml.computing.engines.factored.block import (
    Block,
    image_rows,
    statistics_of_each,
    through_convolution,
)
from fedmaml.computing.engines.layers import GroupNorm
from fedmaml.core.params import Params


@dataclass(frozen=True)
class KeptOfGroups:
    """What `forward` keeps for `backward`; statistics are ``(images, channels)``.

    Attributes:
        x: Inputs.
        z: Outputs of the convolution.
        normalised: Largest of each window, normalised, without scale and shift.
        places: Where it was: the pixel, int32, as the kernel keeps it, int64 as PyTorch does.
        mean: Of each channel's group.
        inverse: 1 / deviation of each channel's group.
    """

    x: Tensor
    z: Tensor
    normalised: Tensor
    places: Tensor
    mean: Tensor
    inverse: Tensor


def forward(block: Block, params: Params, x: Tensor) -> tuple[Tensor, KeptOfGroups]:
    """Return the block's outputs for images with channels last, and what `backward` needs."""
    norm, conv = norm_of(block), block.conv
    bias = params[conv.bias] if conv.bias else None
    z = F.conv2d(x, params[conv.weight], bias, conv.stride, conv.padding)
    _check_spread(z, norm)
    if z.device.type == "cpu" and not native.missing():
        return _forward_by_kernel(block, params, x, z)
    mean, inverse = statistics_of_groups(z, norm)
    pooled, places = torch.ops.aten.max_pool2d_with_indices(z, [block.pool.size] * 2)
    normalised = torch.addcmul(each(-mean * inverse), pooled, each(inverse), out=pooled)
    y = torch.addcmul(each(params[norm.bias]), normalised, each(params[norm.weight]))
    return y, KeptOfGroups(x, z, normalised, places, mean, inverse)


def backward(
    block: Block, params: Params, kept: KeptOfGroups, e: Tensor, wanted: bool
) -> tuple[Tensor, Params]:
    """Return the derivative by the block's inputs, if wanted, and the gradient.

    Args:
        block: The block.
        params: The client's weights.
        kept: From `forward`; used up.
        e: Derivative by the outputs; used up.
        wanted: Whether that by the inputs is.
    """
    norm, z, inverse = norm_of(block), kept.z, kept.inverse
    scale = params[norm.weight]
    if kept.places.dtype == torch.int32:
        gradient = _backward_by_kernel(block, scale, kept, e)
        dx, found = through_convolution(block.conv, params[block.conv.weight], kept.x, z, wanted)
        return dx, gradient | found
    of_shift = e.sum((2, 3))
    of_scale = kept.normalised.mul_(e).sum((2, 3))
    pixels = z[0, 0].numel()
    level, slope = (
        mean_of_groups(part * scale, norm.groups) / pixels for part in (of_shift, of_scale)
    )
    slope = -inverse.square() * slope
    level = -inverse * level - slope * kept.mean
    dz = torch.addcmul(each(level), z, each(slope), out=z)
    brought = image_rows(e.mul_(each(scale * inverse)))
    image_rows(dz).scatter_add_(1, image_rows(kept.places), brought)
    dx, gradient = through_convolution(block.conv, params[block.conv.weight], kept.x, dz, wanted)
    return dx, gradient | {norm.weight: of_scale.sum(0), norm.bias: of_shift.sum(0)}


def _forward_by_kernel(
    block: Block, params: Params, x: Tensor, z: Tensor
) -> tuple[Tensor, KeptOfGroups]:
    norm, size = norm_of(block), block.pool.size
    z = z.contiguous(memory_format=torch.channels_last)
    images, filters, height, width = z.shape
    sizes = torch.tensor([*(images, height, width, filters), norm.groups, size])
    shape = images, height // size, width // size, filters
    normalised, y = z.new_empty(2, *shape)
    places = torch.empty(shape, dtype=torch.int32)
    mean, inverse = z.new_empty(2, images, filters)
    scale, shift = params[norm.weight], params[norm.bias]
    native.run(
        "pooled_group_norm", z, sizes, norm.eps, scale, shift, normalised, y, places, mean, inverse
    )
    return y.permute(0, 3, 1, 2), KeptOfGroups(x, z, normalised, places, mean, inverse)


def _backward_by_kernel(block: Block, scale: Tensor, kept: KeptOfGroups, e: Tensor) -> Params:
    """Turn z into the derivative by it; return the gradient by scale and shift."""
    norm, z = norm_of(block), kept.z
    images, filters, height, width = z.shape
    sizes = torch.tensor([*(images, height, width, filters), norm.groups, block.pool.size])
    of_scale, of_shift = torch.zeros(2, filters, dtype=torch.float64)
    e = e.contiguous(memory_format=torch.channels_last)
    native.run(
        "pooled_group_gradient", z, sizes, scale, kept.normalised, e, kept.places, kept.mean,
        kept.inverse, of_scale, of_shift,
    )  # fmt: skip
    return {norm.weight: of_scale.to(z.dtype), norm.bias: of_shift.to(z.dtype)}


def normalise(norm: GroupNorm, params: Params, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return images normalised, without a block, and what `through` needs."""
    _check_spread(x, norm)
    mean, inverse = statistics_of_groups(x, norm)
    normalised = torch.addcmul(each(-mean * inverse), x, each(inverse))
    y = torch.addcmul(each(params[norm.bias]), normalised, each(params[norm.weight]))
    return y, (normalised, inverse)


def through(
    norm: GroupNorm, params: Params, kept: tuple[Tensor, Tensor], e: Tensor
) -> tuple[Tensor, Params]:
    """Return the derivative by the inputs of `normalise`, and the gradient."""
    normalised, inverse = kept
    scale, pixels = params[norm.weight], e[0, 0].numel()
    of_shift, of_scale = e.sum((2, 3)), (e * normalised).sum((2, 3))
    level, slope = (
        mean_of_groups(part * scale, norm.groups) / pixels for part in (of_shift, of_scale)
    )
    dx = e * each(scale) - each(level) - normalised * each(slope)
    gradient = {norm.weight: of_scale.sum(0), norm.bias: of_shift.sum(0)}
    return dx.mul_(each(inverse)), gradient


def statistics_of_groups(z: Tensor, norm: GroupNorm) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation of each channel's group, ``(images, channels)``."""
    means, variances = statistics_of_each(z)
    mean = mean_of_groups(means, norm.groups)
    variance = mean_of_groups(variances + (means - mean).square(), norm.groups)
    return mean.to(z.dtype), (variance + norm.eps).rsqrt_().to(z.dtype)


def _check_spread(z: Tensor, norm: GroupNorm) -> None:
    """Raise the error that PyTorch's own module raises.

    Raises:
        ValueError: If there is one image with one number in each group, which has no variance.
    """
    if z.numel() == norm.groups:
        raise ValueError(f"no statistics of groups in shape {tuple(z.shape)}: one number a group")


def norm_of(block: Block) -> GroupNorm:
    """Return the normalisation of a block."""
    assert isinstance(block.norm, GroupNorm)
    return block.norm


def mean_of_groups(values: Tensor, groups: int) -> Tensor:
    """Replace the numbers of a group's channels by their mean."""
    parts = values.view(len(values), groups, -1)
    return parts.mean(2, keepdim=True).expand_as(parts).flatten(1)


def each(values: Tensor) -> Tensor:
    """View numbers of channels, of each image or of all, as they are combined with images."""
    return values[..., None, None]
