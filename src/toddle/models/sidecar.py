"""The side-car: a trunk of any width that rides beside a pretrained one and adds to its slots through one zero layer.

For sizes that do not divide.  Its tokens are the slots lifted to its width; its cross blocks read the
first trunk's slots and the context; what it has to say comes back through `merge`, which starts at 0.  So the whole is
exactly the first trunk at first, whatever the widths, and `merge` alone is zero: its gradient is alive.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.models.mlp import zero_
from toddle.models.trunk import Trunk, TrunkConfig

__all__ = ["SideCar"]


class SideCar(nn.Module):
    """slots (N, H, d) -> slots + merge(trunk(lift(slots))).  The trunk's context_width must be d."""

    def __init__(self, config: TrunkConfig, width: int, context_width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(width, config.width)
        self.read = nn.Linear(context_width, width)
        self.trunk = Trunk(config)
        self.merge = zero_(nn.Linear(config.width, width))

    def forward(
        self, slots: Tensor, times: Tensor, mask: Tensor, context: Tensor | None, context_mask: Tensor | None
    ) -> Tensor:
        """Refine slots (N, H, d) at times (N, H) seconds under the additive slot mask (H, H).

        context (N, G, Dc) with its additive mask (N, G); a slot sees the other slots as the mask says.
        """
        count = slots.shape[1]
        seen, rows = slots, mask.expand(len(slots), 1, count, count)
        if context is not None:
            seen = torch.cat([slots, self.read(context)], dim=1)
            extra = context.new_zeros(context.shape[:2]) if context_mask is None else context_mask
            rows = torch.cat([rows, extra[:, None, None].expand(-1, 1, count, -1)], dim=-1)
        return slots + self.merge(self.trunk(self.lift(slots), times, mask[None, None], seen, rows))
