"""An action expert beside a VLM, as pi0, pi0.5 and SmolVLA have it: it reads the VLM's keys and values layer by layer.

    prefix (pictures, words, perhaps the state)  -> keys and values of every layer, made once a decision
    tokens of the expert: [what chunks share | chunk 1 | ... | chunk L]; a chunk sees the prefix, what is shared, itself
The functions run over layers with the names of transformers' Gemma and Llama (`self_attn.q_proj`, `mlp`,
`input_layernorm`, ...).  Positions are counted, not seconds as in `models.attention`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.models.attention import Table, rotate
from toddle.models.recompute import recomputed

__all__ = [
    "Attention",
    "GatedMLP",
    "Keys",
    "attend",
    "embed_time",
    "keys_of",
    "leave",
    "project",
    "read_layer",
    "read_prefix",
    "rotary",
    "suffix_view",
]

BASE = 10_000.0
"""Of the rotary angles, in all three."""
Keys = tuple[Tensor, Tensor]
"""Keys and values (B, key heads, n, head_dim) of one layer."""


class Attention(nn.Module):
    """The projections of an attention of grouped heads, without biases, named as in Gemma and Llama."""

    def __init__(self, width: int, heads: int, key_heads: int, head_dim: int, reads: int | None = None) -> None:
        """Read queries from tokens of `width`, keys and values from tokens of `reads` (the same width where None)."""
        super().__init__()
        reads = width if reads is None else reads
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(reads, key_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(reads, key_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), without biases: SiLU as in Llama, or the tanh form of GELU as in Gemma."""

    def __init__(self, width: int, hidden: int, *, gelu: bool = False) -> None:
        super().__init__()
        self.gelu = gelu
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        gate = self.gate_proj(x)
        made: Tensor = self.down_proj(
            (F.gelu(gate, approximate="tanh") if self.gelu else F.silu(gate)) * self.up_proj(x)
        )
        return made


def embed_time(t: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """Return sines and cosines (..., width) of times t (...), of periods from `shortest` to `longest`."""
    share = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=t.device)
    angle = t[..., None].double() * (2 * math.pi / (shortest * (longest / shortest) ** share))
    return torch.cat([angle.sin(), angle.cos()], -1).float()


def rotary(positions: Tensor, head_dim: int) -> Table:
    """Return cos and sin (B, 1, n, head_dim / 2), float32, of positions (B, n)."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angle = positions[:, None, :, None].float() / BASE**exponent
    return angle.cos(), angle.sin()


def project(attention: Any, y: Tensor, table: Table) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k (rotated) and v, each (B, heads, n, head_dim), of normed tokens y (B, n, d)."""
    size = 2 * table[0].shape[-1]
    parts = (attention.q_proj(y), attention.k_proj(y), attention.v_proj(y))
    q, k, v = (part.unflatten(-1, (-1, size)).transpose(1, 2) for part in parts)
    return rotate(q, table), rotate(k, table), v


def attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Return what an attention of grouped heads reads (B, n, d); mask (B, 1, n or 1, m) bool, True where q sees k."""
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    read: Tensor = attention.o_proj(y.transpose(1, 2).flatten(2))
    return read


def read_layer(layer: Any, x: Tensor, past: Keys, mask: Tensor, table: Table) -> Tensor:
    """Run the expert's tokens x (B, n, d) through one of its layers, beside the prefix's keys and values."""
    q, k, v = project(layer.self_attn, layer.input_layernorm(x), table)
    k, v = (torch.cat(both, 2) for both in zip(past, (k, v), strict=True))
    return leave(layer, x, attend(layer.self_attn, q, k, v, mask))


def leave(layer: Any, x: Tensor, read: Tensor) -> Tensor:
    """Add what was read to tokens x (B, n, d), then what the layer's MLP makes of that."""
    x = x + read
    out: Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
    return out


def read_prefix(layers: Iterable[Any], x: Tensor, positions: Tensor, mask: Tensor, head_dim: int) -> Tensor:
    """Run tokens x (B, G, d) through a VLM's layers; return all keys and values as one context (B, G, D).

    mask (B, 1, G or 1, G) bool; every row must see something, for else its NaN would reach the others.
    The last layer's output is read by nobody and not computed.
    """
    table, kept, before = rotary(positions, head_dim), list[Tensor](), None
    q = x
    for layer in layers:
        x, q, k, v = recomputed(_between, before, layer, x, (q, *kept[-2:]), mask, table)
        kept += [k, v]
        before = layer
    return torch.stack(kept, 1).permute(0, 3, 1, 2, 4).flatten(2)


def _between(
    before: Any, layer: Any, x: Tensor, seen: tuple[Tensor, ...], mask: Tensor, table: Table
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Leave the layer `before` (None: there is none), which has made q, k and v, and make the next one's."""
    if before is not None:
        q, k, v = seen
        x = leave(before, x, attend(before.self_attn, q, k, v, mask))
    return (x, *project(layer.self_attn, layer.input_layernorm(x), table))


def keys_of(context: Tensor, layers: int, head_dim: int) -> list[Keys]:
    """Undo the packing of `read_prefix`."""
    parts = context.unflatten(-1, (2 * layers, -1, head_dim)).permute(2, 0, 3, 1, 4)
    return [(parts[2 * i], parts[2 * i + 1]) for i in range(layers)]


def suffix_view(prefix: Tensor, shared: int, links: int, count: int, *, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Return mask (B, 1, n, G + n) and positions (B, n) of the expert's tokens, n = shared + links * count.

    prefix: (B, G) bool, its real tokens.  `causal`: an action sees no later one of its chunk.
    """
    device = prefix.device
    place = torch.cat([torch.arange(shared, device=device), shared + torch.arange(count, device=device).repeat(links)])
    chunk = torch.cat([place.new_zeros(shared), torch.arange(1, links + 1, device=device).repeat_interleave(count)])
    own = (chunk[:, None] == chunk) | (chunk == 0)
    if causal:
        own = own & (place[:, None] >= place)
    size = (len(prefix), len(place))
    seen = torch.cat([prefix[:, None].expand(-1, len(place), -1), own.expand(*size, -1)], 2)
    return seen[:, None], prefix.sum(1, keepdim=True) + place
