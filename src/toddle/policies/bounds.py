"""Where actions end: at [-1, 1] where they are taught as they are, nowhere where they have units."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ROUNDING", "bounded"]

ROUNDING = 1e-3
"""By how much a recorded action may lie beyond its bounds and still count as within them."""


def bounded(action: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """Clamp actions to [-1, 1] where they were not normalised (every offset 0 and scale 1), else leave them.

    action: (B, H, A), denormalised.  offset, scale: (A') or (B, A').  Actions in degrees or millimetres have no such
    limits; the environment has its own.
    """
    plain = (offset == 0).all(-1) & (scale == 1).all(-1)
    return torch.where(plain[..., None, None], action.clamp(-1.0, 1.0), action)
