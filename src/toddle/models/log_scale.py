"""A positive number that is learned by its logarithm: SAC's temperature, CQL's Lagrange factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LogScale"]


class LogScale(nn.Module):
    """exp(log) > 0."""

    def __init__(self, log: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(log))

    def forward(self) -> Tensor:
        """Return the number."""
        return self.log.exp()
