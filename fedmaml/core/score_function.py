"""Policy gradients from episodes: losses whose derivatives are those of the negative return.

An episode has log-probabilities lp_t, differentiable, and rewards r_t, constants. Let
box(a) = exp(a - constant(a)), whose value is 1, and whose derivative is that of a:

    naive     - sum_t lp_t A_t                 first derivatives only
    lvc       - sum_t box(lp_t) A_t            second ones with low variance, and a bias
    dice      - sum_t box(lp_1 + ... + lp_t) r_t,  and + sum_t (1 - box(lp_t)) b_t with a baseline

A_t = r_t + r_{t+1} + ... (`returns_to_go`), less a baseline b_t that must not depend on what
happens from t on. In expectation over episodes ``dice`` has every derivative of the negative
return. The derivative of a gradient step needs second ones: MAML through ``naive`` steps is
wrong by 13 % where ``lvc`` is by 4 % and no second derivative at all by 1 %
(`simulations.scenarios.tabular`).

Foerster et al. DiCE: The Infinitely Differentiable Monte Carlo Estimator. ICML 2018, eq. 4-6.
arXiv:1802.05098. LVC: Rothfuss et al. ProMP: Proximal Meta-Policy Search. ICLR 2019, eq. 4.
arXiv:1810.06784. Baseline: Duan et al. Benchmarking Deep Reinforcement Learning for Continuous
Control. ICML 2016. arXiv:1604.06778. GAE: Schulman et al. 2016, eq. 16. arXiv:1506.02438.
"""

from typing import Literal

import torch
from torch import Tensor

from fedmaml.core.linear import ridge

Estimator = Literal["naive", "lvc", "dice"]


def box(log_prob: Tensor) -> Tensor:
    """Return 1, whose derivatives are those of exp(log_prob) at 0."""
    return torch.exp(log_prob - log_prob.detach())


def discounted(rewards: Tensor, discount: float) -> Tensor:
    """Return discount^t r_t, ``(..., steps)``."""
    steps = torch.arange(rewards.shape[-1], dtype=rewards.dtype, device=rewards.device)
    return rewards * discount**steps


def returns_to_go(rewards: Tensor, discount: float = 1.0) -> Tensor:
    """Return sum_k discount^k r_{t+k} at every step t, ``(..., steps)``."""
    if discount == 1:
        return rewards.flip(-1).cumsum(-1).flip(-1)
    total, sums = torch.zeros_like(rewards[..., 0]), []
    for reward in rewards.unbind(-1)[::-1]:
        total = reward + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], -1)


def generalised_advantages(
    rewards: Tensor, values: Tensor, discount: float, decay: float
) -> Tensor:
    """Return the advantages of GAE: sums of temporal differences, decayed.

        d_t = r_t + discount v_{t+1} - v_t,  A_t = d_t + discount decay A_{t+1},  v after the end: 0

    Args:
        rewards: ``(..., steps)``.
        values: What a critic expects from t on, in the same shape; a constant.
        discount: In [0, 1].
        decay: Lambda, in [0, 1]; 1: returns to go less values.
    """
    after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    return returns_to_go(rewards + discount * after - values, discount * decay)


def surrogate(
    estimator: Estimator, log_prob: Tensor, advantages: Tensor, alive: Tensor | None = None
) -> Tensor:
    """Return the loss of each episode, from advantages: "naive" or "lvc".

    Args:
        estimator: Which.
        log_prob: Of the actions, ``(..., steps)``.
        advantages: In the same shape; held constant.
        alive: 1 up to the last step of an episode, 0 after it; None: all steps are taken.
    """
    if estimator == "dice":
        raise ValueError("dice takes rewards, not advantages: call dice(log_prob, rewards)")
    gained = advantages.detach() if alive is None else advantages.detach() * alive
    weight = log_prob if estimator == "naive" else box(log_prob)
    return -(weight * gained).sum(-1)


def dice(log_prob: Tensor, rewards: Tensor, baseline: Tensor | None = None) -> Tensor:
    """Return the loss of each episode whose expectation has all derivatives; see the module.

    Args:
        log_prob: Of the actions, ``(..., steps)``.
        rewards: Discounted already, in the same shape; those after the end are 0.
        baseline: Of each step, in the same shape: what is expected from it on; None: 0.
    """
    loss = -(box(log_prob.cumsum(-1)) * rewards.detach()).sum(-1)
    if baseline is None:
        return loss
    return loss - ((1 - box(log_prob)) * baseline.detach()).sum(-1)


def linear_baseline(features: Tensor, targets: Tensor, alive: Tensor, l2: float = 1e-3) -> Tensor:
    """Return what ridge regression on one client's episodes predicts, ``(episodes, steps)``.

        w = (X' X + l2 I)^-1 X' g,   baseline X w       X: all steps of all episodes

    Args:
        features: ``(episodes, steps, features)``.
        targets: Returns to go, ``(episodes, steps)``.
        alive: 1 up to the last step of an episode, 0 after it.
        l2: > 0.
    """
    flat, kept = features.flatten(0, 1), alive.reshape(-1, 1)
    used = flat * kept
    return (flat @ ridge(used, targets.reshape(-1, 1) * kept, l2)).view_as(targets)


def time_features(observations: Tensor) -> Tensor:
    """Return observations, their squares, t, t^2, t^3 and 1; t counts hundreds of steps."""
    steps = observations.shape[-2]
    t = torch.arange(steps, dtype=observations.dtype, device=observations.device) / 100
    powers = torch.stack([t, t**2, t**3, torch.ones_like(t)], -1)
    powers = powers.expand(*observations.shape[:-1], -1)
    return torch.cat([observations, observations**2, powers], -1)


def normalised(advantages: Tensor, alive: Tensor, least: float = 1e-6) -> Tensor:
    """Return advantages with mean 0 and deviation 1 over one client's steps that were taken."""
    count = alive.sum().clamp(min=1)
    centred = (advantages - (advantages * alive).sum() / count) * alive
    return centred / ((centred.square().sum() / count).sqrt() + least)
