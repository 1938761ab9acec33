"""Made-up arms (`systems.arm`) that carry an unknown payload, and what is known of them exactly.

    m ~ U(0, 3) kg at the tip adds m (l1^2 + l2^2, l1 l2, l2^2, g l1, g l2, 0, 0) to pi
    inertia and gravity differ by 5 % between arms, friction by 50 %
    torques have noise of 1.5 and .8 Nm

A measurement is Y pi in units of its noise; columns of Y have mean square 1.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.linear import Prior
from fedmaml.core.tasks import Batch
from fedmaml.simulations import references
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Split
from fedmaml.simulations.systems.arm import OF_MASS, PARAMETERS, motion, regressors

NOISE = torch.tensor([1.5, 0.8], dtype=torch.float64)  # Nm
SAMPLES_A_SECOND, QUERIES = 50, 60
_HEAVIEST = 3.0  # kg
_SPREAD = torch.tensor([0.05] * 5 + [0.5] * 2, dtype=torch.float64)
_OTHER_SECONDS = 6.0


def arms(seed: int, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return masses in kg ``(clients,)`` and parameters pi ``(clients, 7)``."""
    key = seeding.key(seed, "payload")
    mass = _HEAVIEST * seeding.uniform(seeding.key(key, "mass"), clients)
    noise = seeding.normal(seeding.key(key, "arm"), clients, len(PARAMETERS))
    return mass, PARAMETERS * (1 + _SPREAD * noise) + mass[:, None] * OF_MASS


def early(seconds: float) -> Tensor:
    """Return the times of a support, in seconds."""
    return torch.arange(samples(seconds), dtype=torch.float64) / SAMPLES_A_SECOND


def samples(seconds: float) -> int:
    """Return the number of times in a support."""
    return round(seconds * SAMPLES_A_SECOND)


def late() -> Tensor:
    """Return the times of a query, in seconds."""
    return torch.linspace(0, _OTHER_SECONDS, QUERIES, dtype=torch.float64)


@lru_cache(maxsize=1)
def scales() -> Tensor:
    """Return the root mean squares of Y's columns, in units of noise, over motions of 6 s."""
    found = regressors(*motion(seeding.key(0, "payload", "scales"), range(500), late()))
    return (found / NOISE[:, None]).flatten(0, -2).square().mean(0).sqrt()


def reading() -> Tensor:
    """Return c with mass = c'(pi - PARAMETERS), by generalised least squares, ``(7,)``."""
    weights = OF_MASS / (PARAMETERS * _SPREAD).square()
    return weights / (weights @ OF_MASS)


def measured(
    key: int,
    clients: Sequence[int],
    times: Tensor,
    pi: Tensor,
    *,
    noisy: bool,
    spread: float = math.pi / 2,
) -> Batch:
    """Return torques of one motion in time order, joint 1 and 2 in turn; columns are scaled."""
    matrix = regressors(*motion(key, clients, times, spread)) / NOISE[:, None]
    noise = seeding.normal(seeding.key(key, "noise"), clients, 2 * len(times))
    y = (matrix @ pi[:, None, :, None])[..., 0].flatten(1)
    return Batch((matrix / scales()).flatten(1, 2), y + noise if noisy else y)


def support_and_query(
    seed: int,
    split: Split,
    clients: Sequence[int],
    round: int,
    seconds: float,
    made: Callable[..., Batch] = measured,
) -> tuple[Tensor, Batch, Batch]:
    """Return masses in kg, and the clients' support and query.

    Args:
        seed: Determines arms and motions.
        split: Of the clients; those who train have noise in the query, too.
        clients: Their numbers.
        round: Number of the round.
        seconds: Length of the support.
        made: Makes examples as `measured` does.
    """
    training = split == "train"
    key = seeding.key(seed, "payload", split, round if training else 0)
    mass, own = arms(seed, clients)
    support = made(seeding.key(key, "support"), clients, early(seconds), own, noisy=True)
    return mass, support, made(seeding.key(key, "query"), clients, late(), own, noisy=training)


def read_mass_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the error of a mass that is read from the last row, in kg."""
    return (prediction[-1, 0] - y[-1]).abs()


def prior() -> Prior:
    """Return mean and covariance of the scaled parameters of an arm; the noise is 1."""
    mean = (PARAMETERS + _HEAVIEST / 2 * OF_MASS) * scales()
    mass = _HEAVIEST**2 / 12 * torch.outer(OF_MASS, OF_MASS)
    spread = (mass + torch.diag((PARAMETERS * _SPREAD).square())) * torch.outer(scales(), scales())
    return Prior(mean, spread, torch.ones((), dtype=torch.float64))


def of_mechanics() -> tuple[Reference, ...]:
    """Return the references that know the mechanics; examples are those of `measured`."""
    about = "the posterior mean, given the arms' distribution (of the mass, its variance)"
    return (
        references.least_squares(references.identity),
        references.ridge_to_the_mean(references.identity, (0.01, 0.1, 1.0, 10.0)),
        references.hierarchical_ridge(references.identity),
        references.posterior_mean(prior, about),
    )
