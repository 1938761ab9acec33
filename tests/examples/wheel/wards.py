"""Lines whose slopes are the wards' own."""

import torch

import fedmaml as fm
from fedmaml.core import losses, metrics, seeding
from fedmaml.core.networks import MLP
from fedmaml.core.settings import settings


@settings
class Wards(fm.Sites):
    about = "lines whose slopes are the wards' own"
    sites: int = 12
    held_out: int = 4

    def problem(self):
        return fm.Problem(lambda: MLP((1, 8, 1)), losses.half_squared_error, (metrics.RMSE,))

    def examples(self, site):
        own = seeding.generator(self.seed, "ward", site)
        x = torch.randn(20, 1, generator=own)
        return x, x[:, 0] * torch.randn(1, generator=own)
