"""What a sampled response, or each of its tokens, was worth beyond what was to be expected: pure functions of tensors.

Rewards of a step are of shape (groups, K), one group for each prompt; ``known`` marks those that are there. One that is not,
because a judge failed, has advantage 0 and is no part of anybody's baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 1e-4  # added to a group's standard deviation


def leave_one_out(rewards: Tensor, known: Tensor) -> Tensor:
    """A_i = R_i − mean of the other known rewards of its group (Ahmadian et al. 2024, RLOO, 2402.14740); 0 where there is no
    other."""
    count = known.sum(1, keepdim=True)
    kept = rewards.where(known, rewards.new_zeros(()))
    others = (kept.sum(1, keepdim=True) - kept) / (count - 1).clamp(min=1)
    return (kept - others) * (known & (count > 1))


def group_relative(rewards: Tensor, known: Tensor, *, standardise: bool) -> Tensor:
    """A_i = R_i − mean of its group, divided by the group's standard deviation (n − 1) where ``standardise`` (Shao et al.
    2024, GRPO, 2402.03300); without it Dr. GRPO (Liu et al. 2025, 2503.20783), (K − 1)/K of ``leave_one_out``."""
    count = known.sum(1, keepdim=True)
    kept = rewards.where(known, rewards.new_zeros(()))
    centred = (kept - kept.sum(1, keepdim=True) / count.clamp(min=1)) * known
    if standardise:
        spread = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        centred = centred / (spread + STD_FLOOR)
    return centred * (count > 1)


def batch_relative(rewards: Tensor, known: Tensor) -> Tensor:
    """A_i = R_i − mean of all other known rewards of the step, whatever their prompt; 0 where there is no other."""
    return leave_one_out(rewards.reshape(1, -1), known.reshape(1, -1)).reshape(rewards.shape)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, 1506.02438) of shape (rows, tokens).

    δ_t = R_t + γ·V_{t+1} − V_t, A_t = Σ_l (γλ)^l δ_{t+l}; after a row's last real token V is 0. ``rewards``: what each token
    brought; ``values``: V before it. With γ = λ = 1, A_t is the sum of what is still to come, less V_t.
    """
    real = mask.to(values.dtype)
    values = values * real
    following = torch.zeros_like(values[:, 0])  # A_{t+1}
    ahead = torch.zeros_like(following)  # V_{t+1}
    found = torch.zeros_like(values)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * ahead - values[:, t]
        following = (delta + gamma * lam * following) * real[:, t]
        found[:, t] = following
        ahead = values[:, t]
    return found


def whitened(values: Tensor, mask: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Scaled to variance 1 over the marked places and, unless ``keep_mean``, shifted to mean 0 there; 0 elsewhere."""
    real = mask.bool()
    known = values[real]
    if len(known) < 2:
        return values * real
    mean = known.mean()
    scaled = (values - mean) * torch.rsqrt(known.var() + 1e-8)
    return (scaled + mean if keep_mean else scaled) * real


class KLController:
    """The weight β of the KL penalty, fixed, or steered towards a target (Ziegler et al. 2019, 1909.08593, §2.2):
    e = clip(KL/target − 1, −0.2, 0.2), β ← β·(1 + e·n/horizon) after n responses, to half or twice of it at most at once."""

    def __init__(self, beta: float, target: float | None, horizon: int) -> None:
        self.beta, self.target, self.horizon = beta, target, horizon

    def update(self, kl: float, responses: int) -> None:
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            # a short horizon must neither turn the penalty round nor let it leap
            self.beta *= min(max(0.5, 1 + error * responses / self.horizon), 2.0)
