"""Losses as pure functions of tensors. Sums, not means: the caller divides by the weight of the *global* batch, so a
loss does not depend on how a batch is split over micro-batches, ranks or accumulation steps."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def soft_preference_loss(difference: Tensor, p: Tensor, weight: Tensor) -> Tensor:
    """Sum over pairs of w · [−p·log σ(d) − (1−p)·log σ(−d)], in nats; w · log 2 each where d is 0.

    ``difference``: (pairs,), reward of chosen minus reward of rejected, or β times the difference of log-ratios.
    ``p``: probability that chosen is better. ``weight``: ≥ 0. Its optimum is d = logit p (Lee et al. 2023, RLAIF,
    2309.00267 §2.2.1; with hard labels Ouyang et al. 2022, 2203.02155 eq. 1).
    """
    return -(weight * (p * logsigmoid(difference) + (1 - p) * logsigmoid(-difference))).sum()


def dpo_difference(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """h = β·[(log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))], each a sum over response tokens.

    Rafailov et al. 2023 (DPO, 2305.18290) eq. 7; all of shape (pairs,).
    """
    return beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
