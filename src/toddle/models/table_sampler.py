"""An expert's decision near a GPU's limit: all that depends on flow time alone is a table, weights have one type.

The same function as `ActionExpert.prefix` and `sample` for window 1, head velocity, residual modulation, one body, and
context that is all visible; other experts are refused.  What it does differently: weights are cast once (autocast casts
them at every call); the modulators of every block at every step and the time half of the action bank's first layer are
made once; the keys of all cross blocks are one matrix product; nothing in it asks the device for a number, so that it
can be compiled (`compiled`) and captured as one CUDA graph (`captured`).  Weights that change afterwards do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.types import Observation
from toddle.models.attention import rotary_table
from toddle.models.expert import ActionExpert
from toddle.models.modulation import sinusoid

__all__ = ["TableSampler", "captured"]


class TableSampler:
    """A decision of an expert: observation, context (B, G, Dc), noise (B, H, A) -> chunk (B, H, A)."""

    def __init__(self, expert: ActionExpert, steps: int, dtype: torch.dtype = torch.float32) -> None:
        """Make the tables for so many Euler steps.  Raises InputError where the expert is of another kind."""
        config, trunk = expert.config, expert.trunk
        kind = (config.window, config.head, config.trunk.modulation, len(config.bodies), config.sidecar)
        if kind != (1, "velocity", "residual", 1, None):
            wanted = "window 1, head velocity, modulation residual, one body, no side-car"
            raise problem("expert", wanted, ", ".join(map(str, kind)))
        self.expert, self.steps, self.dtype = expert, steps, dtype
        self.heads, self.eps = config.trunk.heads, config.trunk.norm_eps
        first: Any = trunk.layers()[0]
        self.gelu: str = first.approximate
        self._step, self._begin = self._one_step, self._history
        with torch.no_grad():
            self._make_tables(expert)
            self._make_masks(expert)

    def _cast(self, layer: Any) -> tuple[Tensor, Tensor]:
        return layer.weight.detach().to(self.dtype), layer.bias.detach().to(self.dtype)

    def _make_tables(self, expert: Any) -> None:
        trunk, dtype = expert.trunk, self.dtype
        tau = torch.arange(self.steps, device=expert.tokens.slot.device) / self.steps
        condition = F.silu(trunk.condition(tau))
        self.layers: list[tuple[Any, ...]] = []
        tables, keys = [], []
        for block in trunk.layers():
            shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation.linear(condition).chunk(6, -1)
            tables.append(torch.stack([1 + scale1, shift1, 1 + gate1, 1 + scale2, shift2, 1 + gate2], 1).to(dtype))
            own = block.cross if block.kind == "cross" else block.attention
            first = own.q if block.kind == "cross" else own.qkv
            parts = (block.norm1, first, own.out, block.norm2, block.mlp_in, block.mlp_out)
            self.layers.append((block.kind, *map(self._cast, parts)))
            keys += [own.kv] if block.kind == "cross" else []
        self.modulators = [[table[k].unbind(0) for table in tables] for k in range(self.steps)]
        self.context_weight = torch.cat([layer.weight for layer in keys]).to(dtype)
        self.context_bias = torch.cat([layer.bias for layer in keys]).to(dtype)
        self.crosses, self.norm = len(keys), self._cast(trunk.norm)
        lift, self.act, lower = (part for part in next(iter(expert.tokens.action_in._order)).children())
        split = expert.config.bodies[0].action
        self.action_weight = lift.weight[:, :split].to(dtype).contiguous()
        timed = sinusoid(tau, lift.weight.shape[1] - split)
        self.action_bias = (timed @ lift.weight[:, split:].T + lift.bias).to(dtype)  # (steps, hidden)
        self.lower = (lower.weight.to(dtype), (expert.tokens.slot + lower.bias).to(dtype))
        read1, self.read_act, read2 = (part for part in next(iter(expert.out._order)).children())
        self.read1, self.read2 = self._cast(read1), self._cast(read2)

    def _make_masks(self, expert: ActionExpert) -> None:
        device, slots = expert.tokens.slot.device, expert.config.horizon
        times = expert._times(torch.zeros(1, dtype=torch.float64, device=device), 0, slots)
        cos, sin = rotary_table(torch.cat(times, 1), expert.trunk.head_dim)
        self.cos, self.sin = cos.to(self.dtype), sin.to(self.dtype)
        cache = expert.initial_cache(1)
        expert.begin({"proprio": torch.zeros(1, expert.config.bodies[0].proprio, device=device)}, None, None, cache)
        rows = [expert._history_rows(cache, slots), expert._slot_rows(cache, slots)]
        self.mask = torch.cat(rows, 2).to(self.dtype)  # additive (1, 1, 2 + H, 2 + H)

    def compiled(self) -> TableSampler:
        """Compile the pass over the history and that over the slots (inductor); return the sampler."""
        self._step = torch.compile(self._one_step, dynamic=False)
        self._begin = torch.compile(self._history, dynamic=False)
        return self

    def _normed(self, x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], norm[0], norm[1], self.eps)

    def _split(self, x: Tensor, parts: int) -> list[Tensor]:
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]

    def _block(self, x: Tensor, layer: Any, m: Any, keys: Tensor | None, at: slice, past: Any = None) -> Any:
        kind, norm1, first, out, norm2, mlp_in, mlp_out = layer
        scale1, shift1, gate1, scale2, shift2, gate2 = m
        y = F.linear(self._normed(x, norm1) * scale1 + shift1, *first)
        new = None
        if kind == "cross":
            y = F.scaled_dot_product_attention(self._split(y, 1)[0], *self._split(keys, 2))  # type: ignore[arg-type]
        else:
            q, k, v = self._split(y, 3)
            cos, sin = self.cos[..., at, :], self.sin[..., at, :]
            (qa, qb), (ka, kb) = q.chunk(2, -1), k.chunk(2, -1)
            q = torch.cat([qa * cos - qb * sin, qb * cos + qa * sin], -1)
            new = (torch.cat([ka * cos - kb * sin, kb * cos + ka * sin], -1), v)
            k, v = new if past is None else (torch.cat([past[0], new[0]], 2), torch.cat([past[1], v], 2))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[..., at, : k.shape[2]])
        x = x + gate1 * F.linear(y.transpose(1, 2).flatten(2), *out)
        y = self._normed(x, norm2) * scale2 + shift2
        return x + gate2 * F.linear(F.gelu(F.linear(y, *mlp_in), approximate=self.gelu), *mlp_out), new

    def _history(self, x: Tensor, keys: tuple[Tensor, ...]) -> list[Any]:
        """Return keys and values of the history's tokens (B, 2, d) in every self-attention block."""
        one, zero, past, c = x.new_ones(()), x.new_zeros(()), [], 0
        for layer in self.layers:
            m = (one, zero, one, one, zero, one)
            x, new = self._block(x, layer, m, keys[min(c, self.crosses - 1)], slice(0, 2))
            c += layer[0] == "cross"
            past += [new] if new else []
        return past

    def _one_step(self, chunk: Tensor, bias: Tensor, modulators: Any, keys: Any, past: Any) -> Tensor:
        """Make one Euler step."""
        x = F.linear(self.act(F.linear(chunk.to(self.dtype), self.action_weight, bias)), self.lower[0]) + self.lower[1]
        crosses, histories = iter(keys), iter(past)
        for layer, m in zip(self.layers, modulators, strict=True):
            cross = layer[0] == "cross"
            own = (next(crosses), slice(2, None)) if cross else (None, slice(2, None), next(histories))
            x, _ = self._block(x, layer, m, *own)
        y = F.linear(self._normed(x, self.norm), *self.read1)
        return chunk + F.linear(self.read_act(y), *self.read2).float() / self.steps

    @torch.no_grad()
    def __call__(self, observation: Observation, context: Tensor, noise: Tensor) -> Tensor:
        """Return the chunk (B, H, A), normalised; the observation is the first of its episode."""
        keys = F.linear(context.to(self.dtype), self.context_weight, self.context_bias).chunk(self.crosses, -1)
        past = self._begin(self.expert.tokens.history(observation, 0).to(self.dtype), keys)
        for k in range(self.steps):
            noise = self._step(noise, self.action_bias[k], self.modulators[k], keys, past)
        return noise


def captured(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Return (replay, result) of `call` as one CUDA graph: `replay` computes `result` anew from the same inputs.

    Raises InputError where there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise problem("graph", "a CUDA device", "none", "take none or inductor on the CPU")
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
