"""Made-up properties of alloys of twelve metals, and a generator of compositions.

    y(c) = w_1 (v - 6.8) / 1.5 + w_2 12 (d - .15) + w_3 sin(6 e)

of the fractions c: v the mean number of valence electrons, d and e the deviations of radius (as a
share of its mean) and of electronegativity. Smooth and exact: a stand-in, no model of materials.

The generator is the decoder of a variational auto-encoder of random compositions. Kingma, Welling.
Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.params import Params
from fedmaml.simulations.datasets import elements

METALS = ("Mg", "Al", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zr", "Nb")
LATENT, HIDDEN = 4, 32
_ENCODER = 48  # its width
TERMS = 3
TOLERANCE = 0.2
KL_WEIGHT = 0.05
_DIVERSE = 64  # samples
POOL, _CONCENTRATION = 3000, 0.35
_MIN_VARIANCE = 1e-6  # the root at a pure element has a gradient
_STEPS, _BATCH, _LR = 1000, 128, 0.003


def terms(composition: Tensor) -> Tensor:
    """Return the three terms of the property: ``(..., 12)`` fractions -> ``(..., 3)``."""
    valence, radius, negativity = (
        elements.column(name, METALS).to(composition)
        for name in ("valence electrons", "radius", "electronegativity")
    )
    mean = (composition * radius).sum(-1, keepdim=True)
    mismatch = _deviation(composition, radius / mean)
    return torch.stack(
        [
            ((composition * valence).sum(-1) - 6.8) / 1.5,
            12 * (mismatch - 0.15),
            torch.sin(6 * _deviation(composition, negativity)),
        ],
        -1,
    )


def _deviation(composition: Tensor, values: Tensor) -> Tensor:
    mean = (composition * values).sum(-1, keepdim=True)
    variance = (composition * (values - mean).square()).sum(-1)
    return (variance + _MIN_VARIANCE).sqrt()


@lru_cache(maxsize=1)
def pool() -> Tensor:
    """Return random compositions, Dirichlet(.35), float64 ``(3000, 12)``."""
    shape = torch.full((POOL, len(METALS)), _CONCENTRATION, dtype=torch.float64)
    drawn = torch._standard_gamma(shape, generator=seeding.generator(0, "alloys"))
    return drawn / drawn.sum(1, keepdim=True)


class Generator(nn.Module):
    """Latent numbers, and the condition of the generator -> logits of the fractions.

    It starts as the auto-encoder's decoder, which does not look at the condition.

    Args:
        condition: Numbers beside the latent ones.
    """

    def __init__(self, condition: int = 0) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            [nn.Linear(LATENT + condition, HIDDEN), nn.Linear(HIDDEN, HIDDEN)]
        )
        self.head = nn.Linear(HIDDEN, len(METALS))
        start = dict(decoder())
        first = torch.zeros(HIDDEN, LATENT + condition)
        first[:, :LATENT] = start["body.0.weight"]
        self.load_state_dict(start | {"body.0.weight": first})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(samples, 4 + condition)`` to ``(samples, 12)``."""
        return decoded(dict(self.named_parameters()), x)


def decoded(weights: Params, x: Tensor) -> Tensor:
    """Return the generator's logits."""
    for layer in ("body.0", "body.1"):
        x = torch.relu(F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
    return F.linear(x, weights["head.weight"], weights["head.bias"])


@lru_cache(maxsize=1)
def decoder() -> Params:
    """Train the auto-encoder on the pool (2 s, once a process); return its decoder, float32."""
    rng = seeding.generator(0, "alloys", "auto-encoder")
    sizes = {
        "body.0": (LATENT, HIDDEN), "body.1": (HIDDEN, HIDDEN), "head": (HIDDEN, len(METALS)),
        "in": (len(METALS), _ENCODER), "code": (_ENCODER, 2 * LATENT),
    }  # fmt: skip
    weights: Params = {}
    for name, (fan_in, fan_out) in sizes.items():
        draw = torch.randn(fan_out, fan_in, generator=rng) * (2 / fan_in) ** 0.5
        weights |= {f"{name}.weight": draw, f"{name}.bias": torch.zeros(fan_out)}
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=_LR)
    compositions = pool().float()
    for _ in range(_STEPS):
        rows = torch.randint(POOL, (_BATCH,), generator=rng)
        c = compositions[rows]
        hidden = torch.relu(F.linear(c.sqrt(), leaves["in.weight"], leaves["in.bias"]))
        code = F.linear(hidden, leaves["code.weight"], leaves["code.bias"])
        mean, log_variance = torch.split(code, LATENT, 1)
        noise = torch.randn(mean.shape, generator=rng)
        logits = decoded(leaves, mean + noise * (log_variance / 2).exp())
        rest = -(c * logits.log_softmax(1)).sum(1).mean()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        optimizer.zero_grad()
        (rest + KL_WEIGHT * kl).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    encoder = ("in.weight", "in.bias", "code.weight", "code.bias")
    return {name: value.detach() for name, value in leaves.items() if name not in encoder}


def loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return each sample's loss; y is (y*, w, the decoder's logits), ``(samples, 16)``."""
    log_own, log_start = logits.log_softmax(-1), y[:, 1 + TERMS :].log_softmax(-1)
    kl = (log_own.exp() * (log_own - log_start)).sum(-1)
    return (oracle(log_own.exp(), y) - y[:, 0]).square() + KL_WEIGHT * kl


def oracle(composition: Tensor, y: Tensor) -> Tensor:
    """Return the client's property of compositions ``(samples, 12)``; y as in `loss`."""
    return (terms(composition) * y[:, 1 : 1 + TERMS]).sum(-1)


def hit(logits: Tensor, y: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the share of samples whose property is nearer to y* than the tolerance."""
    away = (oracle(logits.softmax(-1), y) - y[:, 0]).abs()
    return (away < tolerance).to(logits.dtype).mean()


def diversity(logits: Tensor, _y: Tensor) -> Tensor:
    """Return the mean over pairs of the first 64 samples of half the sum of |c - c'|."""
    c = logits[:_DIVERSE].softmax(-1)
    pairs = len(c) * (len(c) - 1)
    return (c[:, None] - c[None]).abs().sum() / 2 / max(1, pairs)
