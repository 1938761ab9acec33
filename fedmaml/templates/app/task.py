"""My app: what is its own. Every site has a wave of another phase and amplitude.

`examples` runs at the site: read its own data there, from its own disk.
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

import fedmaml as fm
from fedmaml.core import losses, metrics, seeding
from fedmaml.core.networks import MLP
from fedmaml.core.settings import settings


@settings
class MyApp(fm.Sites):
    """Sites with waves."""

    about: ClassVar[str] = "waves of different phase and amplitude"
    sites: int = 8

    def problem(self) -> fm.Problem:
        """Return network, loss and metrics; the first metric is the headline."""
        network = partial(MLP, (1, 32, 32, 1), torch.tanh)
        return fm.Problem(network, losses.half_squared_error, (metrics.RMSE, metrics.R2))

    def examples(self, site: int) -> tuple[Tensor, Tensor]:
        """Return all inputs and targets of a site."""
        own = seeding.generator(self.seed, "wave", site)
        amplitude, phase = torch.rand(2, generator=own)
        x = 10 * torch.rand(40, 1, generator=own) - 5
        return x, (0.5 + 2 * amplitude) * torch.sin(x[:, 0] + 3 * phase)
