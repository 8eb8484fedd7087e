"""A resampler: a few learned queries read a vision-language model's tokens (Perceiver; Flamingo, arXiv 2204.14198)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toddle.models.mlp import make_mlp

__all__ = ["Resampler"]


class Resampler(nn.Module):
    """(..., G, D_vlm) tokens with their mask -> (..., K, d_g) tokens, all of which are there."""

    def __init__(self, context_width: int, vlm_width: int, queries: int, *, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.LayerNorm(vlm_width), nn.Linear(vlm_width, context_width))
        self.queries = nn.Parameter(torch.randn(queries, context_width))
        heads = math.gcd(heads, context_width)
        self.blocks = nn.ModuleList(_Block(context_width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(context_width)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the queries have read, (..., K, d_g), and its mask (..., K), all True."""
        seen, rows = self.tokens(tokens.flatten(0, -3)), mask.flatten(0, -2)
        found = self.queries.expand(len(seen), -1, -1)
        for block in self.blocks:
            found = block(found, seen, rows)
        made: Tensor = self.norm(found).unflatten(0, tokens.shape[:-2])
        return made, torch.ones(made.shape[:-1], dtype=torch.bool, device=made.device)


class _Block(nn.Module):
    """Queries attend to tokens and to nothing else, then an MLP; both add to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), make_mlp([width, 4 * width, width]))

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        read, _ = self.attention(self.before(queries), tokens, tokens, key_padding_mask=~mask, need_weights=False)
        queries = queries + read
        made: Tensor = queries + self.mlp(queries)
        return made
