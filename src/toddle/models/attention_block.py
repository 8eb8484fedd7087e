"""A transformer block over a set: attention to a context (its own tokens, or others), then two layers, each added."""

from __future__ import annotations

from torch import Tensor, nn

from toddle.models.attention import CrossAttention
from toddle.models.mlp import make_mlp

__all__ = ["AttentionBlock"]


class AttentionBlock(nn.Module):
    """x + attention(norm(x), context), then x + MLP(norm(x)).  No positions: tokens carry their own."""

    def __init__(self, width: int, heads: int, *, itself: bool) -> None:
        """`itself`: the tokens attend to one another, normalised alike; else to a context of the same width."""
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = CrossAttention(width, heads, width)
        self.mlp = make_mlp([width, 4 * width, width], "relu")
        self.context = None if itself else nn.LayerNorm(width)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a context (N, G, d), for any number of queries."""
        return self.attend.keys(context if self.context is None else self.context(context))

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """Return tokens (N, n, d) of tokens (N, n, d); `keys` None: among themselves.  mask: (N or 1, 1, n, G), True
        where a token may look."""
        seen = self.before(x)
        x = x + self.attend(seen, self.attend.keys(seen) if keys is None else keys, mask)
        out: Tensor = x + self.mlp(self.between(x))
        return out
