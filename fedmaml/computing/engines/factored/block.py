"""Convolution, normalisation and pooling as one step; here with that of the batch.

Normalisation is increasing in each channel whose scale is positive, so the largest of a window may
be found before it; then only what is left of the images has to be normalised:

    z = conv(x)    p = pool(z)    y = scale * (p - mean(z)) / deviation(z) + shift

A channel with a negative scale is turned round: weights, bias and scale change sign. With e the
derivative by y, brought to the places that the pool chose, and n the pixels of a channel,

    dz = scale / deviation * (e - sum(e) / n - (z - mean) / deviation^2 * sum(e (p - mean)) / n)

which takes one pass over z, in place. So z is the only array of its size: 75 images of 64 x 28 x 28
are 15 MB, and to get such an array from the system takes longer than to compute it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml import native
from fedmaml.computing.engines.layers import BatchNorm2d, Conv2d, GroupNorm, MaxPool2d
from fedmaml.core.params import Params


@dataclass(frozen=True)
class Block:
    """A convolution with what follows it.

    Attributes:
        conv: The convolution.
        norm: Normalises its outputs.
        pool: Pools those.
    """

    conv: Conv2d
    norm: BatchNorm2d | GroupNorm
    pool: MaxPool2d


@dataclass(frozen=True)
class KeptOfBlock:
    """What `forward` keeps for `backward`.

    Attributes:
        x: Inputs.
        z: Outputs of the convolution.
        centred: Largest of each window, less the channel's mean.
        places: Where it was.
        mean: Of each channel of z.
        inverse: 1 / deviation of each channel of z.
    """

    x: Tensor
    z: Tensor
    centred: Tensor
    places: Tensor
    mean: Tensor
    inverse: Tensor


def takes(block: Block, params: Params) -> bool:
    """Return whether pooling may come before normalisation.

    That is so if no scale is zero; and if none is negative where channels share their statistics,
    of which none can be turned round alone.
    """
    scale = params[block.norm.weight]
    return bool((scale > 0).all() if isinstance(block.norm, GroupNorm) else scale.all())


def forward(block: Block, params: Params, x: Tensor) -> tuple[Tensor, KeptOfBlock]:
    """Return the block's outputs for images with channels last, and what `backward` needs."""
    weight, bias = _turned(block, params)
    z = F.conv2d(x, weight, bias, block.conv.stride, block.conv.padding)
    check_spread(z)
    mean, variance = statistics(z)
    inverse = (variance + block.norm.eps).rsqrt_()
    pooled, places = torch.ops.aten.max_pool2d_with_indices(z, [block.pool.size] * 2)
    centred = pooled.sub_(channels(mean))
    scale = params[block.norm.weight].abs() * inverse
    y = torch.addcmul(channels(params[block.norm.bias]), centred, channels(scale))
    return y, KeptOfBlock(x, z, centred, places, mean, inverse)


def backward(
    block: Block, params: Params, kept: KeptOfBlock, e: Tensor, wanted: bool
) -> tuple[Tensor, Params]:
    """Return the derivative by the block's inputs, if wanted, and the gradient.

    Args:
        block: The block.
        params: The client's weights.
        kept: From `forward`; used up.
        e: Derivative by the outputs; used up.
        wanted: Whether that by the inputs is.
    """
    x, z, mean, inverse = kept.x, kept.z, kept.mean, kept.inverse
    scale, sign = params[block.norm.weight], params[block.norm.weight].sign()
    pixels = z.numel() // len(mean)
    of_shift = e.sum((0, 2, 3))
    of_scale = kept.centred.mul_(e).sum((0, 2, 3)) * inverse
    factor = scale.abs() * inverse
    slope = -factor * inverse * of_scale / pixels
    level = -factor * of_shift / pixels - slope * mean
    dz = torch.addcmul(channels(level), z, channels(slope), out=z)
    image_rows(dz).scatter_add_(1, image_rows(kept.places), image_rows(e.mul_(channels(factor))))
    weight, _ = _turned(block, params)
    dx, gradient = through_convolution(block.conv, weight, x, dz, wanted)
    gradient[block.conv.weight] = gradient[block.conv.weight] * sign[:, None, None, None]
    if block.conv.bias is not None:
        gradient[block.conv.bias] = gradient[block.conv.bias] * sign
    gradient[block.norm.weight] = of_scale * sign
    gradient[block.norm.bias] = of_shift
    return dx, gradient


def through_convolution(
    conv: Conv2d, weight: Tensor, x: Tensor, dz: Tensor, wanted: bool
) -> tuple[Tensor, Params]:
    """Return the derivative by a convolution's inputs x, if wanted, and its gradient."""
    dx, of_weight, of_bias = torch.ops.aten.convolution_backward(
        dz, x, weight, [len(weight)], conv.stride, conv.padding,
        [1, 1], False, [0, 0], 1, [wanted, True, conv.bias is not None],
    )  # fmt: skip
    return dx, {conv.weight: of_weight} | ({conv.bias: of_bias} if conv.bias else {})


def check_spread(x: Tensor) -> None:
    """Raise the error that PyTorch's own module raises.

    Raises:
        ValueError: If there is one number in each channel, which has no variance.
    """
    if x[:, 0].numel() == 1:
        raise ValueError(f"no batch statistics in shape {tuple(x.shape)}: one number a channel")


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel: those of each image, put together in float64.

    PyTorch's statistics of all images at once, channels last, add 58,800 numbers one by one in
    float32: 1.5e-5 off where this is 2e-7, for 1.1 ms against 1.4. The kernel adds up in float64.
    """
    if z.device.type == "cpu" and not native.missing():
        mean, variance = _by_kernel(z, 1)[:, 0]
    else:
        means, variances = statistics_of_each(z)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
    return mean.to(z.dtype), variance.to(z.dtype)


def statistics_of_each(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each image's channels, ``(images, channels)``, in float64."""
    if z.device.type == "cpu" and not native.missing():
        mean, variance = _by_kernel(z, len(z))
        return mean, variance
    each = [torch.ops.aten.batch_norm_update_stats(image[None], None, None, 0.0) for image in z]
    means, variances = (torch.stack(values).double() for values in zip(*each, strict=True))
    return means, variances


def _by_kernel(z: Tensor, parts: int) -> Tensor:
    """Return means and variances of each channel in each part, ``(2, parts, channels)``."""
    found = z.new_empty(2, parts, z.shape[1], dtype=torch.float64)
    rows = z[:, 0].numel() // parts
    native.run("statistics", image_rows(z).contiguous(), parts, rows, z.shape[1], *found)
    return found


def _turned(block: Block, params: Params) -> tuple[Tensor, Tensor | None]:
    """Return the convolution's weights and bias, of the sign that makes scales positive."""
    sign = params[block.norm.weight].sign()
    bias = None if block.conv.bias is None else params[block.conv.bias] * sign
    return params[block.conv.weight] * sign[:, None, None, None], bias


def channels(values: Tensor) -> Tensor:
    """View a number for each channel as it is combined with images."""
    return values[:, None, None]


def image_rows(images: Tensor) -> Tensor:
    """View images as ``(images, pixels, channels)``, as they lie in memory."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)
