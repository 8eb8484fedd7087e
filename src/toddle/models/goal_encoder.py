"""Goal items to context tokens: what stands in RL where a VLM's tokens stand in the VLA (ALGORITHMS P2.3).

One token per item: [part embedding | the rest of the item] -> 2-layer MLP -> layer norm -> d_g.  A dropped or empty
goal is the learned NULL token alone; the adapter of a converted VLA starts as exactly this token (P1.4 mode 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.goal import GOAL_FEATURES, PART
from toddle.models.mlp import make_mlp

__all__ = ["GoalEncoder"]


class GoalEncoder(nn.Module):
    """(..., G, GOAL_FEATURES) goal items -> (..., G, d_g) context tokens.  A set: permuting items permutes tokens."""

    def __init__(self, width: int, parts: int = 256, part_width: int = 16, hidden: int = 128) -> None:
        super().__init__()
        self.parts = parts
        self.part = nn.Embedding(parts, part_width)
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
        rest = torch.cat([goal[..., :PART], goal[..., PART + 1 :]], dim=-1)
        tokens = self.norm(self.mlp(torch.cat([self.part(part), rest], dim=-1)))
        hidden = ~mask.any(-1) if dropped is None else dropped | ~mask.any(-1)
        first = torch.zeros(mask.shape[-1], dtype=torch.bool, device=mask.device)
        first[0] = True
        context = torch.where((hidden[..., None] & first)[..., None], self.null.to(tokens.dtype), tokens)
        return context, torch.where(hidden[..., None], first, mask)
