"""Sizes of the trunk (`models.trunk`)."""

from __future__ import annotations

from typing import Literal

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Size, SizeOrNone, Whole
from toddle.models.modulation import ModulationMode

__all__ = ["TrunkConfig"]

Kind = Literal["cross", "self"]


@config
class TrunkConfig:
    """Sizes of the trunk."""

    width: Size = 192
    """d, channels of a token."""
    depth: Size = 4
    """Number of blocks."""
    heads: Size = 4
    """Attention heads; width / heads must be even."""
    mlp_ratio: Positive = 2.0
    """Hidden units of a block's MLP, as a multiple of the width."""
    context_width: Size = 64
    """d_g, channels of a context token (a goal item in RL, an adapted VLM token in the VLA)."""
    cross_every: SizeOrNone = 2
    """Blocks 0, n, 2n, ... attend to the context, the others among themselves; 0: all among themselves."""
    blocks: tuple[Kind, ...] = ()
    """The kind of every block, where `cross_every` cannot say it (converted or grown trunks)."""
    inserted: tuple[Whole, ...] = ()
    """Self-attention blocks that got a new cross-attention sublayer before them (conversion, mode insert)."""
    fresh: tuple[Whole, ...] = ()
    """Blocks added by growth: their branches pass a learned gate that starts at 0."""
    norm_eps: Positive = 1e-5
    """Epsilon of the layer norms; a conversion must keep it."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """Flavour of the GELU; a conversion must keep it."""
    modulation: ModulationMode = "none"
    """How flow time enters the blocks: none, residual, dit_literal (ablation) or groot."""

    def __post_init__(self) -> None:
        """Check that the sizes fit together."""
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise problem("heads", f"a divisor of width {self.width} with an even quotient", self.heads)
        if self.blocks and len(self.blocks) != self.depth:
            raise problem("blocks", f"{self.depth} kinds (depth)", len(self.blocks))
        for index in self.inserted:
            if not 0 <= index < self.depth or self.kinds[index] != "self":
                raise problem("inserted", "indices of self-attention blocks", index)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of every block."""
        if self.blocks:
            return self.blocks
        every = self.cross_every
        return tuple("cross" if every and index % every == 0 else "self" for index in range(self.depth))
