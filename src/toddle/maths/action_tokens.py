"""Actions as tokens: uniform bins over [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bin_centres", "to_tokens"]


def bin_centres(bins: int) -> Tensor:
    """Return the centres (bins,) of equal bins over [-1, 1]: -1 + (2 i + 1) / bins."""
    return (2.0 * torch.arange(bins, dtype=torch.float64) + 1.0).div(bins).sub(1.0).float()


def to_tokens(action: Tensor, bins: int) -> Tensor:
    """Return the bins (...) int64 that actions (...) lie in; what is outside [-1, 1] goes to the first or last.

    `bin_centres(bins)[tokens]` is the inverse, up to half a bin's width.
    """
    return ((action.double() + 1.0) * (bins / 2.0)).floor().long().clamp(0, bins - 1)
