"""What a state-based MLP sees: normalised numbers of the body, and pooled goal items.

The body's numbers are centred and scaled by running statistics and held to +-10.  Goal items are a set: each goes
through one small network and the weighted sum over the real items follows (Zaheer et al. 2017, "Deep Sets"), so their
order does not matter; a goal without items gives zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core import goal as token
from toddle.core.types import Observation
from toddle.models.normalizer import RunningNorm
from toddle.models.tanh_mlp import TanhMLP

__all__ = ["BodyFeatures"]

PART_EMBEDDING = 8


class BodyFeatures(nn.Module):
    """Features (..., width) of one body: its normalised numbers, then `goal_width` pooled numbers of its goal."""

    def __init__(self, inputs: int, goal_width: int, goal_parts: int, key: str, generator: torch.Generator) -> None:
        """Read `inputs` numbers from the observation's `key`; `goal_width` 0 leaves goals out."""
        super().__init__()
        self.key, self.goal_width, self.width = key, goal_width, inputs + goal_width
        self.scale = RunningNorm((inputs,))
        if goal_width:
            self.part = nn.Parameter(0.5 * torch.randn(goal_parts, PART_EMBEDDING, generator=generator))
            size = token.GOAL_FEATURES - 1 + PART_EMBEDDING
            self.item = TanhMLP(size, (2 * goal_width,), goal_width, last_gain=1.0, generator=generator)

    def forward(self, observation: Observation) -> Tensor:
        """Return features (..., width)."""
        numbers = self.scale(observation[self.key])  # type: ignore[literal-required]
        if not self.goal_width:
            return numbers
        items = observation["goal"]
        part = self.part[items[..., token.PART].long()]
        each = self.item(torch.cat([items[..., token.PART + 1 :], part], -1))
        share = (items[..., token.WEIGHT] * observation["goal_mask"]).unsqueeze(-1)
        return torch.cat([numbers, (each * share).sum(-2)], -1)

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., inputs) into the running statistics."""
        self.scale.update(observation[self.key])  # type: ignore[literal-required]
