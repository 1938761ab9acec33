"""The first block of a network with group normalisation: as `first_block`, image by image.

With S and G of one image, P its pixels, and statistics of groups from those of their channels,

    mean(z_c) = b_c + w_c S / P        variance(z_c) = w_c (G / P - S S' / P^2) w_c'

and dz as in `group_block`: level + slope * z, and factor * e at the places of the windows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmaml import native
from fedmaml.computing.engines.factored.block import Block
from fedmaml.computing.engines.factored.first_block import Patches, pooled_convolution
from fedmaml.computing.engines.factored.group_block import each, mean_of_groups, norm_of
from fedmaml.core.params import Params


@dataclass(frozen=True)
class KeptOfFirstGroups:
    """What `forward` keeps for `backward`; statistics are ``(images, channels)``, float64.

    Attributes:
        patches: The images.
        normalised: Largest of each window, normalised, without scale and shift.
        places: Where it was: 0 to 3.
        own: Mean of each channel by itself.
        mean: Of each channel's group.
        inverse: 1 / deviation of each channel's group.
    """

    patches: Patches
    normalised: Tensor
    places: Tensor
    own: Tensor
    mean: Tensor
    inverse: Tensor


def forward(block: Block, params: Params, patches: Patches) -> tuple[Tensor, KeptOfFirstGroups]:
    """Return the block's outputs, channels last, and what `backward` needs."""
    norm = norm_of(block)
    weight, bias = _convolution(block, params)
    pixels = patches.pixels // patches.shape[0]
    own = bias + patches.sums @ weight.T / pixels
    outer = patches.sums[:, :, None] * patches.sums[:, None]
    spread = ((weight @ (patches.products - outer / pixels)) * weight).sum(2) / pixels
    mean = mean_of_groups(own, norm.groups)
    variance = mean_of_groups(spread + (own - mean).square(), norm.groups)
    inverse = (variance.clamp_min_(0) + norm.eps).rsqrt_()
    pooled, places = pooled_convolution(patches, weight, bias)
    factor = inverse.to(pooled.dtype)
    shift = (-mean * inverse).to(pooled.dtype)
    normalised = torch.addcmul(each(shift), pooled, each(factor), out=pooled)
    y = torch.addcmul(each(params[norm.bias]), normalised, each(params[norm.weight]))
    return y, KeptOfFirstGroups(patches, normalised, places, own, mean, inverse)


def backward(block: Block, params: Params, kept: KeptOfFirstGroups, e: Tensor) -> Params:
    """Return the gradient, given the derivative by the outputs, channels last."""
    norm, conv = norm_of(block), block.conv
    weight, bias = _convolution(block, params)
    patches, inverse, scale = kept.patches, kept.inverse, params[norm.weight].double()
    pixels = patches.pixels // patches.shape[0]
    of_shift = e.sum((2, 3)).double()
    of_scale = kept.normalised.mul_(e).sum((2, 3)).double()
    slope = -inverse.square() * mean_of_groups(of_scale * scale, norm.groups) / pixels
    level = -inverse * mean_of_groups(of_shift * scale, norm.groups) / pixels - slope * kept.mean
    factor = scale * inverse
    brought = (e * each(factor.to(e.dtype))).contiguous(memory_format=torch.channels_last)
    of_places = torch.zeros(patches.sums.shape[1], len(weight), dtype=torch.float64)
    native.run("pooled_gradient", patches.padded, brought, kept.places, patches.sizes, of_places)
    of_weight = (level + slope * bias).T @ patches.sums + of_places.T
    of_weight += (slope[:, :, None] * (weight @ patches.products)).sum(0)
    gradient = {
        conv.weight: of_weight.view_as(params[conv.weight]),
        norm.weight: of_scale.sum(0),
        norm.bias: of_shift.sum(0),
    }
    if conv.bias is not None:
        gradient[conv.bias] = (pixels * (level + slope * kept.own) + factor * of_shift).sum(0)
    return {name: value.to(e.dtype) for name, value in gradient.items()}


def _convolution(block: Block, params: Params) -> tuple[Tensor, Tensor]:
    """Return weights ``(filters, taps)`` and bias in float64."""
    weight = params[block.conv.weight].double().flatten(1)
    bias = params[block.conv.bias].double() if block.conv.bias else weight.new_zeros(len(weight))
    return weight, bias
