"""Losses as pure functions of tensors. Sums, not means: the caller divides by the weight of the *global* batch, so a
loss does not depend on how a batch is split over micro-batches, ranks or accumulation steps."""

from __future__ import annotations

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import logsigmoid

FURTHEST = 80.0  # nats, of a ratio's logarithm: exp(88.7) is more than float32 holds


def soft_preference_loss(difference: Tensor, p: Tensor, weight: Tensor) -> Tensor:
    """Sum over pairs of w · [−p·log σ(d) − (1−p)·log σ(−d)], in nats; w · log 2 each where d is 0.

    ``difference``: (pairs,), reward of chosen minus reward of rejected, or β times the difference of log-ratios.
    ``p``: probability that chosen is better. ``weight``: ≥ 0. Its optimum is d = logit p (Lee et al. 2023, RLAIF,
    2309.00267 §2.2.1; with hard labels Ouyang et al. 2022, 2203.02155 eq. 1).
    """
    return -(weight * (p * logsigmoid(difference) + (1 - p) * logsigmoid(-difference))).sum()


def with_margin(difference: Tensor, p: Tensor, margin: float) -> Tensor:
    """The difference less what is asked for beyond being greater: d − m·(2p − 1), so that a sure label wants a gap of m and a tie
    none (Touvron et al. 2023, Llama 2, 2307.09288, eq. 2, whose margin grows with the rating as this one does with p)."""
    return difference - margin * (2 * p - 1)


def plackett_luce_loss(rewards: Tensor, places: Tensor) -> Tensor:
    """−log of the probability that a Plackett–Luce model of these rewards ranks as given, over the number of choices: K − 1 without ties.

    ``rewards``: (K,); ``places``: (K,), 0 for the best; equal places are a tie, whose members are chosen one after another
    from the same set (Breslow 1974). Σ_i [log Σ_{j not before i} exp r_j − r_i]; of two responses the pairwise loss.
    """
    left = places[None, :] >= places[:, None]
    remaining = rewards.expand(len(rewards), -1).masked_fill(~left, -torch.inf).logsumexp(1)
    last = places == places.max()
    kept = ~last if int(last.sum()) == 1 else torch.ones_like(last)  # one that is left alone is no choice
    return ((remaining - rewards) * kept).sum() / int(kept.sum())


def ipo_loss(difference: Tensor, p: Tensor, weight: Tensor, tau: float) -> Tensor:
    """Sum over pairs of w · (u − (p − ½)/τ)²: a squared distance, in nats² (per token², where u is per token).

    ``difference``: (pairs,), u = the difference of log-ratios, without β. With p in {0, 1} it is IPO's regression to ±1/(2τ)
    (Azar et al. 2023, 2310.12036, eq. 17); for p between them it is the expectation of that over the label, less p·(1 − p)/τ²,
    which moves nothing. Its optimum is u = (p − ½)/τ.
    """
    return (weight * (difference - (p - 0.5) / tau) ** 2).sum()


def smoothed(p: Tensor, rate: float) -> Tensor:
    """Labels of which a share ``rate`` in [0, ½) is taken to be wrong: (1 − ε)·p + ε·(1 − p). With hard labels and the soft
    loss this is conservative DPO (Mitchell 2023), whose optimum is h = logit(1 − ε)."""
    return (1 - rate) * p + rate * (1 - p)


def unflipped(p: Tensor, rate: float) -> Tensor:
    """What makes the soft loss of flipped labels, on average, that of the true ones: (p − ε)/(1 − 2ε), outside [0, 1] for
    hard labels, so that a loss may be below 0. ``rate`` ε in [0, ½) is the chance that a label was flipped. With hard
    labels it is robust DPO (Chowdhury et al. 2024, 2403.00409, eq. 12)."""
    return (p - rate) / (1 - 2 * rate)


def kto_loss(
    one: Tensor, other: Tensor, p: Tensor, weight: Tensor, point: float, desirable: float, undesirable: float
) -> Tensor:
    """Sum over pairs of w times the mean of both responses' losses; from 0 to w · max(λ_D, λ_U).

    ``one``, ``other``: (pairs,), β times the log-ratio of each response; ``point``: β times z0. A desirable response loses
    λ_D · (1 − σ(r − z)), an undesirable one λ_U · (1 − σ(z − r)) (Ethayarajh et al. 2024, 2402.01306, eq. 8); ``p`` is the
    probability that the first is the better, hence desirable, and the second not.
    """

    def lost(r: Tensor, good: Tensor) -> Tensor:
        return good * desirable * sigmoid(point - r) + (1 - good) * undesirable * sigmoid(r - point)

    return (weight * (lost(one, p) + lost(other, 1 - p)) / 2).sum()


def policy_loss(logratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """−min(ρA, clip(ρ, 1 − ε, 1 + ε)·A), elementwise, ρ = exp(logratio) (Schulman et al. 2017, PPO, 1707.06347, eq. 7).

    ``logratio``: log π − log π_old of tokens or of whole responses; where it is 0 the gradient is that of −A·log π. Beyond ±80,
    where exp would end, it counts as that.
    """
    ratio = logratio.clamp(-FURTHEST, FURTHEST).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """π_ref/π − log(π_ref/π) − 1 of each token, at least 0: its mean under π is KL(π || π_ref) (Schulman 2020; GRPO eq. 4)."""
    gap = (reference - logprobs).clamp(max=FURTHEST)
    return gap.exp() - gap - 1


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½·max((V − G)², (clip(V, V_old ± ε) − G)²), elementwise (Huang et al. 2024, 2403.17031)."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
