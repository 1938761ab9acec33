"""The first block of a network: its inputs have few channels, its outputs are never stored.

A convolution of few inputs takes less time than to store what it computes: 64 filters make 15 MB of
75 images of 28 x 28. What normalisation needs of it can be had without it. With x_t(i) the number
under tap t of a filter at pixel i,

    z(i) = b + sum_t w_t x_t(i)        S_t = sum_i x_t(i)        G_ts = sum_i x_t(i) x_s(i)
    mean(z) = b + w S / n              variance(z) = w (G / n - S S' / n^2) w'

where S and G, in float64, depend on the images alone. The kernel (native/pooled_convolution.cpp)
finds the largest z of each window and its place. In the gradient, with dz as in `block`,

    dz(i) = level + slope * z(i) + factor * e(window) at the place of each window
    sum_i dz(i) x_t(i) = level * S_t + slope * (b S_t + sum_s w_s G_st) + factor * sum e x_t(place)

and the last sum is the kernel's. That by b is zero: normalisation takes the mean away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml import native
from fedmaml.computing.engines.factored.block import Block, channels
from fedmaml.computing.engines.layers import GroupNorm
from fedmaml.core.params import Params

_MAX_TAPS = 32  # past some, a product of matrices is faster than a filter that is loaded for each


@dataclass(frozen=True)
class Patches:
    """One client's images as the block wants them.

    Attributes:
        images: As they are, channels last.
        padded: With zeros around them, channels first.
        sizes: What the kernel must know.
        sums: S, float64, ``(taps,)``; with group normalisation of each image.
        products: G, float64, ``(taps, taps)``; likewise.
        shape: Of what the block puts out: images, filters, height, width.
        pixels: n, of all images.
    """

    images: Tensor
    padded: Tensor
    sizes: Tensor
    sums: Tensor
    products: Tensor
    shape: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True)
class KeptOfFirst:
    """What `forward` keeps for `backward`.

    Attributes:
        patches: The images.
        centred: Largest of each window, less the channel's mean.
        places: Where it was: 0 to 3.
        mean: Of each channel, float64.
        inverse: 1 / deviation of each channel, float64.
    """

    patches: Patches
    centred: Tensor
    places: Tensor
    mean: Tensor
    inverse: Tensor


def patches_of(layer: Block, params: Params, x: Tensor) -> Patches | None:
    """Return images, channels last, as the block wants them; None if it cannot take them."""
    weight, (below, right) = params[layer.conv.weight], layer.conv.padding
    filters, planes, *kernel = weight.shape
    height, width = x.shape[2] + 2 * below, x.shape[3] + 2 * right
    rows, columns = height - kernel[0] + 1, width - kernel[1] + 1
    taps = weight[0].numel()
    fits = taps <= _MAX_TAPS and layer.conv.stride == (1, 1) and layer.pool.size == 2
    if not fits or min(rows, columns) < 2 or x.device.type != "cpu" or native.missing():
        return None
    padded = F.pad(x, (right, right, below, below)).contiguous()
    sizes = torch.tensor([len(x), planes, height, width, *kernel, filters])
    if isinstance(layer.norm, GroupNorm):
        each = [_products(image[None], sizes, taps) for image in padded]
        sums, products = (torch.stack(parts) for parts in zip(*each, strict=True))
    else:
        sums, products = _products(padded, sizes, taps)
    shape = len(x), filters, rows // 2, columns // 2
    return Patches(x, padded, sizes, sums, products, shape, len(x) * rows * columns)


def _products(padded: Tensor, sizes: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return S and G of some images."""
    sums = torch.zeros(taps, dtype=torch.float64)
    products = torch.zeros(taps, taps, dtype=torch.float64)
    of_these = torch.cat([torch.tensor([len(padded)]), sizes[1:]])
    native.run("products_of_taps", padded, of_these, products, sums)
    return sums, products + products.triu(1).T


def pooled_convolution(patches: Patches, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each window, channels last, and its place; weights are by taps."""
    images, filters, rows, columns = patches.shape
    pooled = patches.padded.new_empty(images, rows, columns, filters)
    places = torch.empty(pooled.shape, dtype=torch.uint8)
    of_group = native.library().pooled_convolution_group_bytes() // pooled.element_size()
    missing = -filters % of_group
    by_tap = F.pad(weight.T.to(pooled.dtype), (0, missing)).contiguous()
    start = F.pad(bias.to(pooled.dtype), (0, missing))
    native.run("pooled_convolution", patches.padded, by_tap, start, patches.sizes, pooled, places)
    return pooled.permute(0, 3, 1, 2), places


def forward(block: Block, params: Params, patches: Patches) -> tuple[Tensor, KeptOfFirst]:
    """Return the block's outputs, channels last, and what `backward` needs."""
    weight, bias, scale, sign = _parts(block, params)
    mean = bias + weight @ patches.sums / patches.pixels
    spread = patches.products - torch.outer(patches.sums, patches.sums) / patches.pixels
    variance = ((weight @ spread) * weight).sum(1) / patches.pixels
    inverse = (variance.clamp_min_(0) + block.norm.eps).rsqrt_()
    pooled, places = pooled_convolution(patches, weight, bias)
    centred = pooled.sub_(channels(mean.to(pooled.dtype)))
    slope = (scale * sign * inverse).to(pooled.dtype)
    y = torch.addcmul(channels(params[block.norm.bias]), centred, channels(slope))
    return y, KeptOfFirst(patches, centred, places, mean, inverse)


def backward(block: Block, params: Params, kept: KeptOfFirst, e: Tensor) -> Params:
    """Return the gradient, given the derivative by the outputs, channels last."""
    weight, bias, scale, sign = _parts(block, params)
    patches, inverse = kept.patches, kept.inverse
    e = e.contiguous(memory_format=torch.channels_last)
    of_places = torch.zeros(len(patches.sums), len(weight), dtype=torch.float64)
    native.run("pooled_gradient", patches.padded, e, kept.places, patches.sizes, of_places)
    of_shift = e.sum((0, 2, 3)).double()
    of_scale = kept.centred.mul_(e).sum((0, 2, 3)).double() * inverse
    factor = scale * sign * inverse
    slope = -factor * inverse * of_scale / patches.pixels
    level = -factor * of_shift / patches.pixels - slope * kept.mean
    of_weight = torch.outer(level + slope * bias, patches.sums)
    of_weight += slope[:, None] * (weight @ patches.products) + factor[:, None] * of_places.T
    shape = params[block.conv.weight].shape
    gradient = {
        block.conv.weight: (of_weight * sign[:, None]).view(shape).to(e.dtype),
        block.norm.weight: (of_scale * sign).to(e.dtype),
        block.norm.bias: of_shift.to(e.dtype),
    }
    if block.conv.bias is not None:
        gradient[block.conv.bias] = torch.zeros_like(params[block.conv.bias])
    return gradient


def _parts(block: Block, params: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights and bias, turned so that scales are positive, scales, and their signs."""
    scale = params[block.norm.weight].double()
    sign = scale.sign()
    weight = params[block.conv.weight].double().flatten(1) * sign[:, None]
    bias = torch.zeros_like(sign)
    if block.conv.bias is not None:
        bias = params[block.conv.bias].double() * sign
    return weight, bias, scale, sign
