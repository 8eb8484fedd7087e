"""Goal items to context tokens: what stands in RL where a VLM's tokens stand in the VLA (docs/goal_tracking.md).

One token per item: [part embedding | the rest of the item] -> 2-layer MLP -> layer norm -> d_g.  A dropped or empty
goal is the learned NULL token alone; the adapter of a converted VLA starts as exactly this token (docs/conversion.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.goal import CURRENT_ERROR, GOAL_FEATURES, PART, TIME_TO_GO
from toddle.models.mlp import make_mlp

__all__ = ["GoalEncoder"]


ERROR_SCALE, TIME_SCALE, PART_SCALE = 3.0, 0.1, 0.3
"""Factors of an item's numbers before the MLP.  Errors are below 1 and matter most, the time to go is up to 10 and
matters least; unscaled, time fills the layer norm and PPO needs several times the experience to find the errors."""


class GoalEncoder(nn.Module):
    """(..., G, GOAL_FEATURES) goal items -> (..., G, d_g) context tokens.  A set: permuting items permutes tokens."""

    scale: Tensor

    def __init__(self, width: int, parts: int = 256, part_width: int = 16, hidden: int = 128) -> None:
        super().__init__()
        self.parts = parts
        self.part = nn.Embedding(parts, part_width)
        scale = torch.ones(GOAL_FEATURES)
        scale[CURRENT_ERROR], scale[TIME_TO_GO] = ERROR_SCALE, TIME_SCALE
        self.register_buffer("scale", torch.cat([scale[:PART], scale[PART + 1 :]]), persistent=False)
        self.mlp = make_mlp([part_width + GOAL_FEATURES - 1, hidden, width])
        self.norm = nn.LayerNorm(width)
        self.null = nn.Parameter(torch.randn(width, generator=torch.Generator().manual_seed(0)))

    def forward(
        self, goal: Tensor | None, mask: Tensor | None, dropped: Tensor | None, lead: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return context (..., G, d_g) and its mask (..., G) bool.

        goal: (..., G, F) and mask (..., G), or None (a task without goals: NULL alone, G = 1); dropped: (...) bool,
        where the goal is hidden; lead: the leading dimensions (...).
        """
        if goal is None or mask is None:
            context = self.null.expand(*lead, 1, -1)
            return context, torch.ones(*lead, 1, dtype=torch.bool, device=context.device)
        part = goal[..., PART].long().clamp(0, self.parts - 1)
        rest = torch.cat([goal[..., :PART], goal[..., PART + 1 :]], dim=-1) * self.scale
        tokens = self.norm(self.mlp(torch.cat([PART_SCALE * self.part(part), rest], dim=-1)))
        hidden = ~mask.any(-1) if dropped is None else dropped | ~mask.any(-1)
        first = torch.zeros(mask.shape[-1], dtype=torch.bool, device=mask.device)
        first[0] = True
        context = torch.where((hidden[..., None] & first)[..., None], self.null.to(tokens.dtype), tokens)
        return context, torch.where(hidden[..., None], first, mask)
