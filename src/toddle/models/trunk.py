"""The transformer that RL and the VLA share: pre-LN blocks of cross-attention to context or self-attention, and an MLP.

Three ways through the same weights, equal to rounding (tests hold them together):
- `forward`: any tokens under any mask.  The plain form, and the oracle of the other two.
- `segment`: whole training segments.  History tokens attend among themselves in one call, the slots of all decisions
  to the history and their own decision's slots in another.
- `step`: one decision, with the history's keys and values in a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.models.attention import (
    CrossAttention,
    KVRing,
    SelfAttention,
    Table,
    attend_slots,
    attend_slots_gathered,
    rotary_table,
)
from toddle.models.compiled import Compilable, compiled
from toddle.models.mlp import zero_
from toddle.models.modulation import Modulation, Modulators, TimeEmbedding
from toddle.models.recompute import recomputed
from toddle.models.trunk_config import TrunkConfig

__all__ = ["Block", "Segment", "Trunk", "TrunkConfig"]


class Segment(NamedTuple):
    """What the self-attention of a segment needs, made once per forward."""

    history: Tensor  # additive (B, 1, 2S, 2S)
    rows: Tensor  # additive (B, S', 2S), what the last S' decisions' slots see
    slots: Tensor  # additive (H, H)
    history_table: Table  # of (B, 2S) times
    slot_table: Table  # of (B, S', H) times
    window: int
    links: int = 1  # chunks of slots that each decision has; S' counts every one


Seen = tuple[Segment, Tensor | None, Tensor | None, int, bool]


class Block(Compilable, nn.Module):
    """x + gate1 * attention(norm1(x)), then x + gate2 * mlp(norm2(x)), with the modulation of `modulation.py`."""

    def __init__(self, config: TrunkConfig, index: int) -> None:
        super().__init__()
        d, hidden = config.width, round(config.width * config.mlp_ratio)
        self.kind = config.kinds[index]
        self.literal = config.modulation == "dit_literal"
        self.approximate = "tanh" if config.gelu == "tanh" else "none"
        if index in config.inserted:
            self.insert_norm = nn.LayerNorm(d, config.norm_eps)
            self.insert = CrossAttention(d, config.heads, config.context_width)
            zero_(self.insert.out)
        self.inserted = index in config.inserted
        self.norm1 = nn.LayerNorm(d, config.norm_eps)
        if self.kind == "cross":
            self.cross = CrossAttention(d, config.heads, config.context_width)
        else:
            self.attention = SelfAttention(d, config.heads)
        self.norm2 = nn.LayerNorm(d, config.norm_eps)
        self.mlp_in = nn.Linear(d, hidden)
        self.mlp_out = nn.Linear(hidden, d)
        self.modulation = Modulation(d, config.modulation) if config.modulation != "none" else None
        self.gates = nn.Parameter(torch.zeros(2, d)) if index in config.fresh else None

    def forward(self, run: Any, *given: Any) -> Any:
        """Return run(self, *given), during which weights that are shared out are put together (`models.sharded`)."""
        return run(self, *given)

    def modulators(self, condition: Tensor | None) -> Modulators | None:
        """Return the block's modulators of the embedded flow time (None: not modulated)."""
        return self.modulation(condition) if self.modulation is not None and condition is not None else None

    def _gated(self, y: Tensor, which: int, deviation: Tensor | None) -> Tensor:
        """Multiply a branch by its gate: 1 (pretrained) or 0 + learned (fresh, literal), plus the deviation."""
        if self.gates is not None:
            gate = self.gates[which]
            return y * (gate if deviation is None else gate + deviation)
        if deviation is None:
            return y
        return y * deviation if self.literal else y * (1 + deviation)

    def enter(self, x: Tensor, m: Modulators | None) -> Tensor:
        """Return what the attention reads of tokens x."""
        y = self.norm1(x)
        return y if m is None else y * m.scale1 + m.shift1

    def leave(self, x: Tensor, y: Tensor, m: Modulators | None) -> Tensor:
        """Add the attention's output y to x, then the MLP's."""
        x = x + self._gated(y, 0, m.gate1 if m else None)
        y = self.norm2(x)
        if m is not None and m.scale2 is not None and m.shift2 is not None:
            y = y * m.scale2 + m.shift2
        y = self.mlp_out(F.gelu(self.mlp_in(y), approximate=self.approximate))
        return x + self._gated(y, 1, m.gate2 if m else None)

    def context_keys(self, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Return keys and values of the context (N, G, Dc) where this block reads it, else None."""
        layer = self.cross if self.kind == "cross" else self.insert if self.inserted else None
        return None if layer is None or context is None else layer.keys(context)

    def read_context(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None, m: Modulators | None) -> Tensor:
        """Run a cross block on tokens x (N, n, d)."""
        return self.leave(x, self.cross(self.enter(x, m), keys, mask), m)

    def insert_context(self, x: Tensor, keys: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        """Run the inserted cross sublayer, where there is one."""
        return x + self.insert(self.insert_norm(x), keys, mask) if self.inserted and keys is not None else x


class Trunk(nn.Module):
    """The blocks, a last layer norm, and the embedding of flow time where the blocks are modulated."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([Block(config, index) for index in range(config.depth)])
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.time = TimeEmbedding(config.width) if config.modulation != "none" else None
        self.history_needed = [("self" in config.kinds[index + 1 :]) for index in range(config.depth)]

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.config.width // self.config.heads

    def layers(self) -> Sequence[Block]:
        """Return the blocks in order."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def condition(self, tau: Tensor | None) -> Tensor | None:
        """Return the embedded flow time c (..., d) of tau (...), or None where nothing is modulated."""
        return self.time(tau) if self.time is not None and tau is not None else None

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None = None,
        tau: Tensor | None = None,
    ) -> Tensor:
        """Run tokens x (B, n, d) at times (B, n) seconds through all blocks and the last norm; all are modulated.

        mask: additive (B or 1, 1, n, n); context (B, G, Dc); context_mask additive (B, 1, 1 or n, G); tau (B,).
        """
        table, condition = rotary_table(times, self.head_dim), self.condition(tau)
        for block in self.layers():
            m, keys = block.modulators(condition), block.context_keys(context)
            if block.kind == "cross":
                assert keys is not None, "a trunk with cross-attention needs context"
                x = block.read_context(x, keys, context_mask, m)
            else:
                x = block.insert_context(x, keys, context_mask)
                x = block.leave(x, block.attention(block.enter(x, m), table, mask), m)
        return self.norm(x)

    def segment(
        self,
        history: Tensor,
        slots: Tensor,
        view: Segment,
        context: Tensor | None,
        context_mask: Tensor | None,
        tau: Tensor | None = None,
        *,
        modulate_history: bool = False,
        return_history: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Run segments: history (B, S, 2, d), slots (B, S', H, d) of the last S' decisions.

        context (B, S, G, Dc) and its additive mask (B, S, G) are each decision's own; tau (B, S').  Several chunks of
        slots a decision (`view.links`) follow each other in S' and share its keys.
        Returns normed slots (B, S', H, d) and the history (normed with `return_history`; else partly computed).
        """
        length, decisions = history.shape[1], slots.shape[1] // view.links
        condition, read = self.condition(tau), None if context is None else context.flatten(0, 1)
        flat_mask = None if context_mask is None else context_mask.flatten(0, 1)[:, None, None]
        slot_mask = None if context_mask is None else context_mask[:, length - decisions :].flatten(0, 1)[:, None, None]

        run, seen = compiled(_run_block), (view, flat_mask, slot_mask, decisions, modulate_history)
        for block, needed in zip(self.layers(), self.history_needed, strict=True):
            history, slots = recomputed(block, run, history, slots, condition, read, needed or return_history, seen)
        return self.norm(slots), self.norm(history) if return_history else history

    def step(
        self, x: Tensor, times: Tensor, mask: Tensor, ring: KVRing, history: int, tau: Tensor | None = None
    ) -> Tensor:
        """Run one decision's tokens x (B, n, d) against the ring; writes its keys and values into the ring.

        times (B, n) seconds; mask additive (B, 1, n, 2W + n - history); history: how many leading tokens of x are the
        decision's history (2), or 0 for slots alone, which are then modulated by tau (B,).
        Returns the normed tokens (B, n, d).
        """
        table, condition = rotary_table(times, self.head_dim), self.condition(tau)
        selves = crosses = 0
        for block in self.layers():
            m, keys = block.modulators(condition), None
            if block.kind == "cross" or block.inserted:
                keys = ring.context[crosses]
                crosses += 1
            if block.kind == "cross":
                assert keys is not None
                x = block.read_context(x, keys, ring.context_mask, m)
                continue
            x = block.insert_context(x, keys, ring.context_mask)
            q, k, v = block.attention.project(block.enter(x, m), table)
            seen = ring.write(selves, k, v, history)
            selves += 1
            y = F.scaled_dot_product_attention(q, *seen, attn_mask=mask)
            x = block.leave(x, block.attention.merge(y), m)
        return self.norm(x)

    def step_links(
        self, x: Tensor, times: Tensor, rows: Tensor, slots: Tensor, ring: KVRing, tau: Tensor | None = None
    ) -> Tensor:
        """Run several chunks of slots x (B, L, H, d) of one decision against the ring, into which nothing is written.

        times (B, H) seconds; rows additive (B, L, 2W), slots additive (H, H); tau (B, L).  Returns x's shape, normed.
        """
        table, condition = rotary_table(times[:, None], self.head_dim), self.condition(tau)
        selves = crosses = 0
        for block in self.layers():
            m, keys = block.modulators(condition), None
            if block.kind == "cross" or block.inserted:
                keys = ring.context[crosses]
                crosses += 1
            if block.kind == "cross":
                assert keys is not None
                y = block.cross(block.enter(x, m).flatten(1, 2), keys, ring.context_mask)
                x = block.leave(x, y.view_as(x), m)
                continue
            x = block.insert_context(x.flatten(1, 2), keys, ring.context_mask).view_as(x)
            q, k, v = block.attention.project(block.enter(x, m), table)
            past = ring.keys[selves][:, :, : 2 * ring.window], ring.values[selves][:, :, : 2 * ring.window]
            selves += 1
            x = block.leave(x, block.attention.merge(attend_slots(q, (k, v), past, rows, slots)), m)
        return self.norm(x)


def _run_block(
    block: Block,
    history: Tensor,
    slots: Tensor,
    condition: Tensor | None,
    read: Tensor | None,
    needed: bool,
    seen: Seen,
) -> tuple[Tensor, Tensor]:
    """Run one block over a segment (`Trunk.segment`); the history's output only where a later block reads it.

    seen: the segment's masks and tables, the context's masks of all and of the last decisions, how many these are, and
    whether flow time modulates the history.
    """
    view, flat_mask, slot_mask, decisions, modulate_history = seen
    batch, length = history.shape[:2]
    m, keys = block.modulators(condition), block.context_keys(read)
    mh = m if modulate_history else None
    late = keys if keys is None or decisions == length else _last(keys, batch, decisions)

    def by_decision(x: Tensor) -> Tensor:
        return x.reshape(batch * decisions, -1, x.shape[-1])

    if block.kind == "cross":
        assert keys is not None and late is not None, "a trunk with cross-attention needs context"
        if needed and m is None and slots.shape[1] == length == decisions:  # small calls are costly
            both = torch.cat([history, slots], dim=2)
            both = block.read_context(both.flatten(0, 1), keys, flat_mask, None).view_as(both)
            return both[:, :, :2], both[:, :, 2:]
        if needed:
            y = block.cross(block.enter(history, mh).flatten(0, 1), keys, flat_mask)
            history = block.leave(history, y.view_as(history), mh)
        y = block.cross(by_decision(block.enter(slots, m)), late, slot_mask)
        return history, block.leave(slots, y.view_as(slots), m)
    if block.inserted:
        history = block.insert_context(history.flatten(0, 1), keys, flat_mask).view_as(history)
        slots = block.insert_context(by_decision(slots), late, slot_mask).view_as(slots)
    attention = block.attention
    q, k, v = attention.project(block.enter(history, mh).flatten(1, 2), view.history_table)
    sq, sk, sv = attention.project(block.enter(slots, m), view.slot_table)
    if length >= 4 * view.window and slots.shape[1] == length and view.links == 1:
        y = attend_slots_gathered(sq, (sk, sv), (k, v), view.rows, view.slots, view.window)
    else:
        y = attend_slots(sq, (sk, sv), (k, v), view.rows, view.slots)
    slots = block.leave(slots, attention.merge(y), m)
    if needed:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=view.history)
        history = block.leave(history, attention.merge(y).view_as(history), mh)
    return history, slots


def _last(keys: tuple[Tensor, Tensor], batch: int, decisions: int) -> tuple[Tensor, Tensor]:
    """Return the keys and values (B * S, ...) of each segment's last `decisions` decisions."""
    k, v = (part.unflatten(0, (batch, -1))[:, -decisions:].flatten(0, 1) for part in keys)
    return k, v
