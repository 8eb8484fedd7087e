"""A small decoder of action tokens that attends to context tokens: causally, one by one, or all at once.

What is known before the first token (proprioception) is the start token; position l reads it and the tokens before l,
and its output says what token l is.  The context's keys are made once per decision; decoding one by one keeps the keys
of what was said.  In parallel (OpenVLA-OFT, arXiv 2502.19645) placeholders stand for all tokens and see each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Size
from toddle.maths.masks import additive
from toddle.models.attention import CrossAttention
from toddle.models.mlp import make_mlp
from toddle.models.recompute import recomputed

__all__ = ["DecoderConfig", "Said", "TokenDecoder"]


@config
class DecoderConfig:
    """Sizes of the decoder."""

    width: Size = 128
    """Channels of a token."""
    depth: Size = 3
    """Number of blocks."""
    heads: Size = 4
    """Attention heads."""
    mlp_ratio: Positive = 2.0
    """Hidden units of a block's MLP, as a multiple of the width."""
    context_width: Size = 64
    """Channels of an adapted context token."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise problem("heads", f"a divisor of width {self.width}", self.heads)


@dataclass
class Said:
    """What a decision has said so far: keys and values of every block, and those of its context."""

    context: list[tuple[Tensor, Tensor]]
    mask: Tensor
    past: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    count: int = 0


class _Block(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.cross = CrossAttention(d, config.heads, config.context_width)
        self.mlp = make_mlp([d, round(d * config.mlp_ratio), d])

    def forward(self, x: Tensor, said: Said, index: int, *, causal: bool, keep: bool) -> Tensor:
        """Map tokens x (N, n, d); with `keep` they follow what was said before, and are kept."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        if keep:
            if said.count:
                k, v = torch.cat([said.past[index][0], k], 2), torch.cat([said.past[index][1], v], 2)
                said.past[index] = (k, v)
            else:
                said.past.append((k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal and q.shape[2] > 1)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.cross(self.norm2(x), said.context[index], said.mask)
        return x + self.mlp(self.norm3(x))


class TokenDecoder(nn.Module):
    """Tokens in, hidden states out; what reads them is the policy's."""

    def __init__(self, config: DecoderConfig, length: int, vocabulary: int) -> None:
        """length: L, the most tokens of a decision; vocabulary: different tokens."""
        super().__init__()
        self.config, self.length = config, length
        d = config.width
        self.words = nn.Embedding(vocabulary, d)
        self.places = nn.Parameter(0.5 * torch.randn(length, d))
        self.placeholder = nn.Parameter(0.02 * torch.randn(d))
        nn.init.normal_(self.words.weight, std=0.02)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d)

    def open(self, context: Tensor, mask: Tensor) -> Said:
        """Make the keys of context (N, G, Dc) with mask (N, G) bool, once per decision."""
        keys = [block.cross.keys(context) for block in self.blocks if isinstance(block, _Block)]
        return Said(keys, additive(mask)[:, None, None])

    def _run(self, x: Tensor, said: Said, *, causal: bool, keep: bool = False) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = recomputed(block, x, said, index, causal=causal, keep=keep)
        if keep:
            said.count += x.shape[1]
        done: Tensor = self.norm(x)
        return done

    def forced(self, start: Tensor, tokens: Tensor, said: Said) -> Tensor:
        """Return the hidden states (N, L, d) that say tokens (N, L), all in one pass; start (N, d)."""
        before = torch.cat([start[:, None], self.words(tokens[:, :-1])], 1)
        return self._run(before + self.places[: tokens.shape[1]], said, causal=True)

    def next(self, before: Tensor, said: Said) -> Tensor:
        """Return the hidden state (N, d) of the next token, of the start token or the word before (N, d)."""
        return self._run((before + self.places[said.count])[:, None], said, causal=True, keep=True)[:, 0]

    def together(self, start: Tensor, length: int, said: Said) -> Tensor:
        """Return the hidden states (N, L, d) of `length` tokens at once, from placeholders that see each other."""
        return self._with_placeholders(start, length, said)[:, 1:]

    def prompt(self, start: Tensor, said: Said, placeholders: int = 0) -> Tensor:
        """Return the hidden state (N, d) of the start token (N, d), alone or beside the placeholders it sees."""
        if placeholders:
            return self._with_placeholders(start, placeholders, said)[:, 0]
        return self._run((start + self.places[0])[:, None], said, causal=True)[:, 0]

    def _with_placeholders(self, start: Tensor, length: int, said: Said) -> Tensor:
        holders = (self.placeholder + self.places[:length]).expand(len(start), -1, -1)
        return self._run(torch.cat([start[:, None], holders], 1), said, causal=False)
