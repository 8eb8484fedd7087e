"""An expert's decision near a GPU's limit: all that depends on flow time alone is a table, weights have one type.

The same function as `ActionExpert.prefix` and `sample`, for any window, head of a flow, modulation of slots and body.
What it does differently: weights are cast once (autocast casts them at every call); the modulators of every block at
every step and the time half of the action bank's first layer are made once; the keys of all cross blocks are one matrix
product; no mask is passed where all context is seen; and the decision is a function of tensors of fixed shapes that
asks the device for nothing on the way, so that it can be compiled (`compiled`) and captured as one CUDA graph
(`graphed`).  Weights that change afterwards do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.types import Observation
from toddle.maths.flow import contracting
from toddle.maths.masks import additive
from toddle.models.attention import KVRing, rotary_table, rotate
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.modulation import sinusoid
from toddle.models.trunk import Block

__all__ = ["TableSampler", "captured", "check_tables"]

Affine = tuple[Tensor, Tensor]
Keys = tuple[Tensor, Tensor]  # (B, heads, n, head_dim) each
Inputs = dict[str, Tensor]
Made = TypeVar("Made")


class Layer(NamedTuple):
    """The weights of a block, in the sampler's type."""

    kind: str
    insert: tuple[Affine, Affine, Affine] | None  # norm, queries, out
    plain: Mod  # without flow time: what the history passes
    norm1: Affine
    first: Affine  # queries of a cross block, queries, keys and values of a self block
    out: Affine
    norm2: Affine
    mlp_in: Affine
    mlp_out: Affine


class Mod(NamedTuple):
    """Factors and shifts of a block, those of `models.modulation` with the gates as they multiply; None: 1 or 0."""

    scale1: Tensor | None
    shift1: Tensor | None
    gate1: Tensor | None
    scale2: Tensor | None
    shift2: Tensor | None
    gate2: Tensor | None


class Bank(NamedTuple):
    """What is a body's own."""

    lift: Tensor  # (hidden, A), of the noisy action
    timed: list[Tensor]  # a step each: (hidden,), of the flow time
    lower: Affine  # its bias has the slots' embeddings in it: (H, d)
    read1: Affine
    read2: Affine


def check_tables(config: ExpertConfig) -> None:
    """Raise InputError where the expert is of a kind that has no tables."""
    if config.head == "direct" or config.modulate == "all" or config.sidecar is not None:
        kind = f"head {config.head}, modulate {config.modulate}{', a side-car' if config.sidecar else ''}"
        raise problem("compile", "none with an expert that is no flow, modulates its history or has a side-car", kind)


class TableSampler:
    """Draws chunks: observation, context (B, G, Dc), mask (B, G), ring, noise (B, H, A) -> chunk (B, H, A)."""

    def __init__(self, expert: ActionExpert, steps: int, dtype: torch.dtype = torch.float32) -> None:
        """Make the tables for so many Euler steps.  Raises InputError where the expert is of another kind."""
        check_tables(expert.config)
        self.expert, self.dtype = expert, dtype
        self.heads, self.eps = expert.config.trunk.heads, expert.config.trunk.norm_eps
        times = [*(expert.config.times or [k / steps for k in range(steps)]), 1.0]
        self.begin = math.hypot(times[0], 1 - times[0]) if expert.config.times else 1.0
        device = expert.tokens.slot.device
        self.tau = [torch.tensor([now], device=device) for now in times[:-1]]
        self.delta = [torch.tensor([after - now], device=device) for now, after in pairwise(times)]
        self.gelu = expert.trunk.layers()[0].approximate
        self.banks: dict[int, Bank] = {}
        self._step, self._past = self._one_step, self._history
        self._graphs: dict[Any, tuple[Inputs, Callable[[], None], tuple[Tensor, list[Keys]]]] | None = None
        with torch.no_grad():
            self._make_tables(expert)
            self.slots = expert.slot_rows(expert.config.horizon)

    # ---- tables ------------------------------------------------------------------------------------------------------
    def _cast(self, layer: Any) -> Affine:
        return layer.weight.detach().to(self.dtype), layer.bias.detach().to(self.dtype)

    def _make_tables(self, expert: ActionExpert) -> None:
        trunk, keys, tables = expert.trunk, [], []
        condition = trunk.condition(torch.cat(self.tau))
        self.layers: list[Layer] = []
        for block in trunk.layers():
            own: Any = block.cross if block.kind == "cross" else block.attention
            insert = None
            if block.inserted:
                insert = self._cast(block.insert_norm), self._cast(block.insert.q), self._cast(block.insert.out)
            first = own.q if block.kind == "cross" else own.qkv
            six: Any = map(self._cast, (block.norm1, first, own.out, block.norm2, block.mlp_in, block.mlp_out))
            self.layers.append(Layer(block.kind, insert, self._mods(block, None)[0], *six))
            keys += [own.kv] if block.kind == "cross" else [block.insert.kv] if block.inserted else []
            tables.append(self._mods(block, condition))
        self.mods = [[table[k] for table in tables] for k in range(len(self.tau))]
        self.crosses = len(keys)
        if keys:
            self.context_weight = torch.cat([layer.weight for layer in keys]).to(self.dtype)
            self.context_bias = torch.cat([layer.bias for layer in keys]).to(self.dtype)
        self.norm = self._cast(trunk.norm)

    def _mods(self, block: Block, condition: Tensor | None) -> list[Mod]:
        """Return a block's factors and shifts at every step; `condition` (steps, d), or None: without flow time."""
        m, count = block.modulators(condition), len(self.tau)

        def rows(x: Tensor | None) -> list[Tensor | None]:
            return [None] * count if x is None else list(x.detach().to(self.dtype).reshape(count, -1).unbind(0))

        def gate(which: int, deviation: Tensor | None) -> list[Tensor | None]:
            if block.gates is not None:
                own = block.gates[which].expand(count, -1)
                return rows(own if deviation is None else own + deviation.squeeze(1))
            return rows(None if deviation is None else deviation if block.literal else 1 + deviation)

        parts = (m.scale1, m.shift1, m.scale2, m.shift2) if m else (None,) * 4
        scale1, shift1, scale2, shift2 = map(rows, parts)
        gates = gate(0, m.gate1 if m else None), gate(1, m.gate2 if m else None)
        return [Mod(*each) for each in zip(scale1, shift1, gates[0], scale2, shift2, gates[1], strict=True)]

    def bank(self, body: int) -> Bank:
        """Return the tables of a body, made when it is first asked for."""
        if body not in self.banks:
            tokens: Any = self.expert.tokens
            lift, _, lower = tokens.action_in._order[body].children()
            read1, _, read2 = self.expert.out._order[body].children()
            own = self.expert.config.bodies[body].action
            timed = sinusoid(torch.cat(self.tau), lift.weight.shape[1] - own) @ lift.weight[:, own:].T + lift.bias
            self.banks[body] = Bank(
                lift=lift.weight[:, :own].detach().to(self.dtype).contiguous(),
                timed=list(timed.to(self.dtype).unbind(0)),
                lower=(lower.weight.detach().to(self.dtype), (tokens.slot + lower.bias).detach().to(self.dtype)),
                read1=self._cast(read1),
                read2=self._cast(read2),
            )
        return self.banks[body]

    def compiled(self) -> TableSampler:
        """Compile the pass over the history and that over the slots (inductor); return the sampler."""
        self._step = torch.compile(self._one_step, dynamic=False)
        self._past = torch.compile(self._history, dynamic=False)
        return self

    def graphed(self) -> TableSampler:
        """Decide by one CUDA graph for each shape of inputs, captured when it is first met; return the sampler."""
        self._graphs = {}
        return self

    # ---- a decision --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def __call__(
        self, observation: Observation, context: Tensor | None, mask: Tensor | None, ring: KVRing, noise: Tensor
    ) -> Tensor:
        """Return the chunk (B, H, A), normalised, and write the decision into the ring (`start` makes one).

        Raises InputError where the rows are of several bodies.
        """
        body = self.expert.begin(observation, None, None, ring).body
        if not isinstance(body, int):
            raise problem("compile", "one body in all worlds", "several", "take --compile none")
        inputs = self._inputs(observation, context, mask, ring, noise)
        chunk, new = self._replayed(inputs, body) if self._graphs is not None else self._decide(inputs, body)
        if ring.window > 1:
            for layer, (k, v) in enumerate(new):
                ring.write(layer, k, v, 2)
        return F.pad(chunk, (0, noise.shape[-1] - chunk.shape[-1]))

    def start(self, batch: int) -> KVRing:
        """Return an empty ring for `batch` worlds."""
        return self.expert.initial_cache(batch, self.dtype)

    def _inputs(
        self, observation: Observation, context: Tensor | None, mask: Tensor | None, ring: KVRing, noise: Tensor
    ) -> Inputs:
        """Return all that a decision depends on: what stands in the ring now, who sees whom, and the observation."""
        slots = len(self.slots)
        found: Inputs = {"proprio": observation["proprio"], "noise": noise}
        if "previous_action" in observation:
            found["previous_action"] = observation["previous_action"]
        if self.crosses and context is not None:
            found["context"] = context
            if mask is not None and not bool(mask.all()):  # the one number that is asked for
                found["context_mask"] = additive(mask)[:, None, None].to(self.dtype)
        clock = ring.clock if ring.window > 1 else ring.clock.new_zeros(1)  # alone, only differences of time count
        found["cos"], found["sin"] = rotary_table(
            torch.cat(self.expert._times(clock, ring.body, slots), 1), self.expert.trunk.head_dim
        )
        assert ring.rows is not None
        rows = ring.rows if ring.window > 1 else ring.rows[:1]
        at = 2 * ring.pointer
        now, past = rows[:, at : at + 2], rows.clone()
        past[:, at : at + 2] = -math.inf  # what stands there is of the decision that leaves the window
        own = torch.stack([now.new_tensor([0.0, -math.inf]).expand_as(now), now], 1)
        history, late = [own], [now[:, None].expand(-1, slots, -1), self.slots.expand(len(now), -1, -1)]
        if ring.window > 1:
            history.insert(0, past[:, None].expand(-1, 2, -1))
            late.insert(0, past[:, None].expand(-1, slots, -1))
            for layer, pair in enumerate(zip(ring.keys, ring.values, strict=True)):
                found |= {
                    f"{name}{layer}": part[:, :, : 2 * ring.window] for name, part in zip("kv", pair, strict=True)
                }
        found["history_mask"] = torch.cat(history, 2)[:, None].to(self.dtype)
        found["slot_mask"] = torch.cat(late, 2)[:, None].to(self.dtype)
        return found

    def _decide(self, inputs: Inputs, body: int) -> tuple[Tensor, list[Keys]]:
        """Return the chunk (B, H, A of the body), and keys and values of the history's two tokens in every self block.

        A function of `inputs` alone.
        """
        bank, keys = self.bank(body), tuple[Tensor, ...]()
        if self.crosses:
            keys = F.linear(inputs["context"].to(self.dtype), self.context_weight, self.context_bias).chunk(
                self.crosses, -1
            )
        tokens = self.expert.tokens.history(inputs, body).to(self.dtype)  # type: ignore[arg-type]
        ring = [(inputs[f"k{layer}"], inputs[f"v{layer}"]) for layer in range(sum(name[0] == "k" for name in inputs))]
        table, seen = (inputs["cos"], inputs["sin"]), inputs.get("context_mask")
        new = self._past(tokens, tuple(part[..., :2, :] for part in table), inputs["history_mask"], keys, seen, ring)
        past = [tuple(torch.cat(pair, 2) for pair in zip(*each, strict=True)) for each in zip(ring, new, strict=False)]
        late = tuple(part[..., 2:, :] for part in table)
        x = inputs["noise"][..., : self.expert.config.bodies[body].action] * self.begin
        for k, m in enumerate(self.mods):
            moment = self.tau[k], self.delta[k], bank.timed[k]
            x = self._step(x, moment, m, bank, late, inputs["slot_mask"], keys, seen, past or new)
        return x, new

    def _history(self, x: Tensor, table: Any, mask: Tensor, keys: Any, seen: Tensor | None, ring: Any) -> list[Keys]:
        """Return keys and values of the history's tokens (B, 2, d) in every self block."""
        new: list[Keys] = []
        crosses = iter(keys)
        last = max((i for i, layer in enumerate(self.layers) if layer.kind == "self"), default=-1)
        for layer in self.layers[: last + 1]:
            past = ring[len(new)] if ring and layer.kind == "self" else None
            x, pair = self._block(x, layer, layer.plain, crosses, seen, table, mask, past)
            new += [pair] if pair is not None else []
        return new

    def _one_step(
        self, x: Tensor, moment: Any, mods: Any, bank: Bank, table: Any, mask: Tensor, keys: Any, seen: Any, past: Any
    ) -> Tensor:
        """Make one Euler step of chunks x (B, H, A), float32."""
        tau, delta, timed = moment
        y = F.linear(F.silu(F.linear(x.to(self.dtype), bank.lift, timed)), bank.lower[0]) + bank.lower[1]
        crosses, histories = iter(keys), iter(past)
        for layer, m in zip(self.layers, mods, strict=True):
            own = next(histories) if layer.kind == "self" else None
            y, _ = self._block(y, layer, m, crosses, seen, table, mask, own)
        raw = F.linear(F.silu(F.linear(self._normed(y, self.norm), *bank.read1)), *bank.read2).to(x.dtype)
        if self.expert.config.contract:
            raw = contracting(raw, x, tau, self.expert.config.head)
        return x + delta * self.expert.as_velocity(raw, x, tau, floor=0.0)

    # ---- a block -----------------------------------------------------------------------------------------------------
    def _normed(self, x: Tensor, norm: Affine) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], norm[0], norm[1], self.eps)

    def _split(self, x: Tensor, parts: int) -> list[Tensor]:
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]

    def _cross(self, x: Tensor, q: Affine, keys: Tensor, seen: Tensor | None) -> Tensor:
        k, v = self._split(keys, 2)
        y = F.scaled_dot_product_attention(self._split(F.linear(x, *q), 1)[0], k, v, attn_mask=seen)
        return y.transpose(1, 2).flatten(2)

    def _block(
        self, x: Tensor, layer: Layer, m: Mod, keys: Any, seen: Tensor | None, table: Any, mask: Tensor, past: Any
    ) -> tuple[Tensor, Keys | None]:
        """Return tokens x (B, n, d) after a block, and the keys and values that a self block made of them."""
        new: Keys | None = None
        if layer.insert is not None:
            norm, ask, out = layer.insert
            x = x + F.linear(self._cross(self._normed(x, norm), ask, next(keys), seen), *out)
        y = _affine(self._normed(x, layer.norm1), m.scale1, m.shift1)
        if layer.kind == "cross":
            y = self._cross(y, layer.first, next(keys), seen)
        else:
            q, k, v = self._split(F.linear(y, *layer.first), 3)
            q, new = rotate(q, table), (rotate(k, table), v)
            k, v = new if past is None else (torch.cat([past[0], new[0]], 2), torch.cat([past[1], v], 2))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + _affine(F.linear(y, *layer.out), m.gate1, None)
        y = F.linear(_affine(self._normed(x, layer.norm2), m.scale2, m.shift2), *layer.mlp_in)
        return x + _affine(F.linear(F.gelu(y, approximate=self.gelu), *layer.mlp_out), m.gate2, None), new

    # ---- CUDA graphs -------------------------------------------------------------------------------------------------
    def _replayed(self, inputs: Inputs, body: int) -> tuple[Tensor, list[Keys]]:
        """Do what `_decide` does by a graph; what it returns is overwritten by the next decision of these shapes."""
        assert self._graphs is not None
        key = (body, *((name, tuple(x.shape), x.dtype) for name, x in inputs.items()))
        if key not in self._graphs:
            held = {name: x.clone(memory_format=torch.contiguous_format) for name, x in inputs.items()}
            self._graphs[key] = (held, *captured(lambda: self._decide(held, body)))
        held, replay, (chunk, new) = self._graphs[key]
        for name, x in inputs.items():
            held[name].copy_(x)
        replay()
        return chunk.clone(), new


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    x = x if scale is None else x * scale
    return x if shift is None else x + shift


def captured(call: Callable[[], Made]) -> tuple[Callable[[], None], Made]:
    """Return (replay, result) of `call` as one CUDA graph: `replay` computes `result` anew from the same inputs.

    Raises InputError where there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise problem("compile", "none, tables or inductor without a CUDA device", "graph")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result
