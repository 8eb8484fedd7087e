"""Actions as tokens: uniform bins over [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bin_centres"]


def bin_centres(bins: int) -> Tensor:
    """Return the centres (bins,) of equal bins over [-1, 1]: -1 + (2 i + 1) / bins."""
    return (2.0 * torch.arange(bins, dtype=torch.float64) + 1.0).div(bins).sub(1.0).float()
