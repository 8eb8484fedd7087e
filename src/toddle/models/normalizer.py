"""Running mean and standard deviation as buffers: saved with the policy, changed only by an explicit `update`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toddle.core.errors import problem

__all__ = ["CLIP", "RunningNorm", "TokenMoments"]

CLIP = 10.0
"""Deviations at which normalised proprioception is clipped: one that hardly moved in training may move at last."""


class RunningNorm(nn.Module):
    """Per-body normalisation of the last dimension: clip((x - mean) / sqrt(var + eps), -clip, clip).

    sizes: O of each body; inputs may be padded to the widest body, the padding comes out as 0.  Before the first
    update it is the identity.  Moments are float64 and merged by Chan's rule, so the order of batches hardly matters.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, sizes: Sequence[int], *, eps: float = 1e-6, clip: float = CLIP) -> None:
        super().__init__()
        self.sizes, self.eps, self.clip = list(sizes), eps, clip
        widest = max(sizes)
        self.register_buffer("mean", torch.zeros(len(sizes), widest, dtype=torch.float64))
        self.register_buffer("var", torch.ones(len(sizes), widest, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(sizes), dtype=torch.float64))
        # What `forward` needs, in float32: made at an update, as it is used thousands of times before the next one.
        self.register_buffer("shift", torch.zeros(len(sizes), widest))
        self.register_buffer("scale", torch.full((len(sizes), widest), (1.0 + eps) ** -0.5))

    @torch.no_grad()
    def update(self, x: Tensor, body: int = 0) -> None:
        """Merge the moments of x (..., O) of one body.  Raises InputError when O is not that body's."""
        size = self.sizes[body]
        if x.shape[-1] < size:
            raise problem("proprio", f"at least {size} numbers for body {body}", x.shape[-1])
        rows = x[..., :size].reshape(-1, size).double()
        if not len(rows):
            return
        old, new = self.count[body].clone(), float(len(rows))
        mean = rows.mean(0)  # in passes of their own, a fraction of the time of torch.var_mean
        var = (rows - mean).square_().mean(0)
        total = old + new
        delta = mean - self.mean[body, :size]
        merged = self.var[body, :size] * old + var * new + delta.square() * (old * new / total)
        self.mean[body, :size] += delta * (new / total)
        self.var[body, :size] = merged / total
        self.count[body] = total
        self.shift[body] = self.mean[body]
        self.scale[body] = (self.var[body] + self.eps).rsqrt()

    @torch.no_grad()
    def forget(self, body: int) -> None:
        """Forget one body's moments: the next `update` is its first."""
        self.mean[body], self.var[body], self.count[body] = 0.0, 1.0, 0.0

    def forward(self, x: Tensor, body: int = 0) -> Tensor:
        """Normalise x (..., O) of one body; float32 in and out."""
        size = self.sizes[body]
        x = x if x.shape[-1] == size else x[..., :size]
        shift, scale = self.shift, self.scale  # (1, O) where there is one body, which saves two calls
        if len(self.sizes) > 1 or x.dim() == 1:
            shift, scale = shift[body, :size], scale[body, :size]
        if x.dtype != shift.dtype:
            shift, scale = shift.to(x.dtype), scale.to(x.dtype)
        return torch.sub(x, shift).mul_(scale).clamp_(-self.clip, self.clip)


class TokenMoments(nn.Module):
    """Mean and standard deviation of the embedded tokens of each type, an exponential average over batches.

    A converted expert with fresh encoders matches them (docs/conversion.md, other bodies).  `count` is the number of
    batches seen; moments are meaningless while it is 0.
    """

    TYPES = ("past_action", "observation", "slot")
    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(self.TYPES), width))
        self.register_buffer("std", torch.ones(len(self.TYPES), width))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, kind: str, tokens: Tensor, momentum: float = 0.1) -> None:
        """Average in the moments of tokens (..., d) of one type; `count` is advanced by the observation tokens."""
        index = self.TYPES.index(kind)
        std, mean = torch.std_mean(tokens.reshape(-1, tokens.shape[-1]).float(), dim=0, correction=0)
        weight = 1.0 if self.count == 0 else momentum
        self.mean[index].lerp_(mean, weight)
        self.std[index].lerp_(std, weight)
