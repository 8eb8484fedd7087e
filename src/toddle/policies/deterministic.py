"""A deterministic actor: the single-mode baseline of DDiffPG."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.models.mlp import make_mlp

__all__ = ["TanhActor"]


class TanhActor(nn.Module):
    """a = tanh(net(s)), as TD3's actor (arXiv 1802.09477).  It has no density, so it is no `Policy`."""

    def __init__(self, observation: int, action: int, seed: int) -> None:
        """Build the network; the weights follow from `seed`."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(seed)
            self.net = make_mlp([observation, 256, 256, action], "elu")

    def forward(self, observation: Tensor) -> Tensor:
        """Map (B, O) to (B, A) in [-1, 1]."""
        return torch.tanh(self.net(observation))
