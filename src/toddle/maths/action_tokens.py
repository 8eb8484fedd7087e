"""Actions as tokens: uniform bins over [-1, 1], with an exact inverse on the bins' centres."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bin_centres", "from_tokens", "to_tokens"]


def bin_centres(bins: int) -> Tensor:
    """Return the centres (bins,) of equal bins over [-1, 1]: -1 + (2 i + 1) / bins."""
    return (2.0 * torch.arange(bins, dtype=torch.float64) + 1.0).div(bins).sub(1.0).float()


def to_tokens(action: Tensor, bins: int) -> Tensor:
    """Return the bins (...) int64 that actions (...) lie in; what is outside [-1, 1] goes to the first or last."""
    return ((action.double() + 1.0) * (bins / 2.0)).floor().long().clamp(0, bins - 1)


def from_tokens(tokens: Tensor, bins: int) -> Tensor:
    """Return the centres (...) of the bins `tokens` (...): the inverse of `to_tokens` up to half a bin's width."""
    return bin_centres(bins).to(tokens.device)[tokens]
