"""Self-attention with rotary positions in SECONDS, cross-attention to a set of context tokens, and the key-value ring.

Rotary angles are time x frequency, with time constants from 0.01 s to 10 s.  Only time differences enter a logit, so
keys cached at earlier control steps stay valid and bodies of different control rates share one trunk.  Tables
are computed in float64: an hour at 100 rad/s still has its phase exact.  Context is a set: no positions in its keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossAttention", "KVRing", "SelfAttention", "rotary_table", "rotate"]

FASTEST, SLOWEST = 0.01, 10.0  # seconds per radian

Table = tuple[Tensor, Tensor]


def rotary_table(times: Tensor, head_dim: int) -> Table:
    """Return cos and sin (..., 1, n, head_dim / 2), float32, for times (..., n) in seconds (float64)."""
    pairs = head_dim // 2
    grid = torch.arange(pairs, dtype=torch.float64, device=times.device) / max(pairs - 1, 1)
    frequency = (1 / FASTEST) * torch.exp(-grid * math.log(SLOWEST / FASTEST))
    angle = times.double()[..., None, :, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, table: Table) -> Tensor:
    """Rotate x (..., heads, n, head_dim) by the table's angles; the first half of the channels pairs with the other."""
    cos, sin = table
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves (and a history given as keys and values)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor, table: Table) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k (rotated) and v, each (..., heads, n, head_dim), of tokens (..., n, d)."""
        q, k, v = (_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return rotate(q, table), rotate(k, table), v

    def merge(self, y: Tensor) -> Tensor:
        """Return (..., n, d) from the heads' outputs (..., heads, n, head_dim)."""
        return self.out(y.transpose(-2, -3).flatten(-2))

    def forward(self, x: Tensor, table: Table, mask: Tensor | None) -> Tensor:
        """Attend within tokens x (B, n, d) under an additive mask (B or 1, 1, n, n)."""
        q, k, v = self.project(x, table)
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to context tokens of another width."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return k, v (..., heads, G, head_dim) of context (..., G, Dc); made once per decision."""
        k, v = (_heads(part, self.heads) for part in self.kv(context).chunk(2, dim=-1))
        return k, v

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attend from tokens x (N, n, d) under an additive mask (N, 1, 1 or n, G)."""
        q = _heads(self.q(x), self.heads)
        y = F.scaled_dot_product_attention(q, *keys, attn_mask=mask)
        return self.out(y.transpose(-2, -3).flatten(-2))


def attend_slots(
    q: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], rows: Tensor, slots: Tensor
) -> Tensor:
    """Let the slots of S' decisions attend to the history they may see and to their own decision's slots.

    q and own keys, values: (B, S', heads, H, head_dim); past keys, values: (B, heads, n, head_dim); rows: additive
    (B, S', n), what each decision sees of the history; slots: additive (H, H).  Returns q's shape.
    One softmax over both parts: the history's logits are one matrix product over all decisions (no (S(2+H))^2 mask).
    """
    batch, decisions, heads, count, head_dim = q.shape
    q = q.transpose(1, 2) * head_dim**-0.5
    own_k, own_v = (part.transpose(1, 2) for part in own)
    n = past[0].shape[-2]
    seen = (q.reshape(batch, heads, decisions * count, head_dim) @ past[0].transpose(-1, -2)).view(
        batch, heads, decisions, count, n
    ) + rows[:, None, :, None]
    weight = torch.cat([seen, q @ own_k.transpose(-1, -2) + slots], dim=-1).softmax(dim=-1).to(q.dtype)
    history = weight[..., :n].reshape(batch, heads, decisions * count, n) @ past[1]
    return (history.view_as(q) + weight[..., n:] @ own_v).transpose(1, 2)


def attend_slots_gathered(
    q: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], rows: Tensor, slots: Tensor, window: int
) -> Tensor:
    """Do what `attend_slots` does with each decision's window of keys gathered: cheaper when the segment is long.

    Needs all decisions of the segment (S' = S, n = 2S).
    """
    batch, decisions, heads, count, head_dim = q.shape
    pad = 2 * (window - 1)

    def gather(history: Tensor, mine: Tensor) -> Tensor:
        windows = F.pad(history, (0, 0, pad, 0)).unfold(2, 2 * window, 2)  # (B, heads, S, head_dim, 2W)
        windows = windows.permute(0, 2, 1, 4, 3).reshape(batch * decisions, heads, 2 * window, head_dim)
        return torch.cat([windows, mine.flatten(0, 1)], dim=-2)

    start = torch.arange(decisions, device=q.device) * 2
    columns = start[:, None] + torch.arange(2 * window, device=q.device)
    padded = F.pad(rows, (pad, 0), value=-math.inf)
    seen = padded.gather(2, columns.expand(batch, -1, -1)).flatten(0, 1)[:, None, None]
    mask = torch.cat([seen.expand(-1, 1, count, -1), slots.expand(len(seen), 1, -1, -1)], dim=-1)
    k, v = (gather(part, mine) for part, mine in zip(past, own, strict=True))
    y = F.scaled_dot_product_attention(q.flatten(0, 1), k, v, attn_mask=mask.to(q.dtype))
    return y.unflatten(0, (batch, decisions))


@dataclass
class KVRing:
    """Keys and values of the last W decisions of B worlds, for every self-attention block; written in place.

    The ring's pointer is common to all worlds; `count` (B,) says how many decisions since a world's episode began, so
    that a world is cleared by its count alone.  The last H places of each buffer hold the slots of the decision
    under way.
    """

    keys: list[Tensor]  # per self-attention block (B, heads, 2W + H, head_dim)
    values: list[Tensor]
    window: int
    pointer: int
    count: Tensor  # (B,) int64
    clock: Tensor  # (B,) float64, seconds since the episode began
    rows: Tensor | None = None  # additive (B, 2W), what the decision under way sees
    context: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # keys, values of its context, per cross
    context_mask: Tensor | None = None
    raw_context: Tensor | None = None  # (B, G, Dc), for a side-car
    body: int | Tensor = 0
    pending: Tensor | None = None  # history tokens that wait for tau (modulate="all")

    def write(self, layer: int, k: Tensor, v: Tensor, history: int) -> tuple[Tensor, Tensor]:
        """Store k, v (B, heads, n, head_dim): the first `history` (0 or 2) at the pointer, the rest as slots.

        Returns views of all that may be attended to.
        """
        keys, values = self.keys[layer], self.values[layer]
        at, end = 2 * self.pointer, 2 * self.window + k.shape[-2] - history
        for buffer, new in ((keys, k), (values, v)):
            if history:
                buffer[:, :, at : at + 2] = new[:, :, :history]
            if end > 2 * self.window:
                buffer[:, :, 2 * self.window : end] = new[:, :, history:]
        return keys[:, :, :end], values[:, :, :end]
