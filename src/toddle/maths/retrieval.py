"""Which part of what was recorded is like what has just been seen: nearest rows, and parts in time.

STRAP (Memmel et al. 2024, arXiv 2412.15182): sub-sequence dynamic time warping, in which every moment of the query goes
on by one or two moments of the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["blend_weights", "distances", "subsequence_costs"]


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Return Euclidean distances (..., N, M) of rows (..., N, D) and (M, D), exactly 0 for equal ones."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def subsequence_costs(costs: Tensor, begins: Tensor) -> Tensor:
    """Return the least cost (..., M) of a part of the reference that ends at each of its M rows.

    costs: (..., N, M) of each moment of the query at each row.  begins: (M,) bool, rows at which an episode of the
    reference begins: no part reaches over them.  D[0] = C[0]; D[n, m] = C[n, m] + min(D[n-1, m-1], D[n-1, m-2]).
    """
    second = torch.roll(begins, 1)
    second[0] = False
    last = costs[..., 0, :]
    for moment in range(1, costs.shape[-2]):
        one, two = torch.roll(last, 1, -1), torch.roll(last, 2, -1)
        one = torch.where(begins, torch.inf, one)
        two = torch.where(begins | second, torch.inf, two)
        last = costs[..., moment, :] + torch.minimum(one, two)
    return last


def blend_weights(cost: Tensor, width: float) -> Tensor:
    """Return weights (..., K) of neighbours at these costs: a triangle, 1 at 0 and 0 from `width` on, whose sum is at
    most 1; what is missing to 1 is nobody's."""
    near = (1.0 - cost / width).clamp(min=0.0)
    return near / near.sum(-1, keepdim=True).clamp(min=1.0)
