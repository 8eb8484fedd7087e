"""Modulation by flow time: adaLN (arXiv 2212.09748) whose zero-initialised part is a DEVIATION.

    residual     x + (1 + g1) Attn(LN(x) (1 + s1) + b1),  x + (1 + g2) MLP(LN(x) (1 + s2) + b2)   (canonical)
    dit_literal  the same with gates g1, g2 alone: each block is the identity at first and the pretrained function and
                 the gradient of its weights are gone; kept as the ablation that shows why the prior matters
    groot        (1 + s1), b1 on the first norm only, no gate (GR00T N1)
s, b, g = W SiLU(c) with W = 0 and bias 0, c the embedded flow time: at first nothing depends on tau.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from toddle.models.mlp import zero_

__all__ = ["Modulation", "ModulationMode", "Modulators", "TimeEmbedding", "sinusoid"]

ModulationMode = Literal["none", "residual", "dit_literal", "groot"]


def sinusoid(tau: Tensor, size: int) -> Tensor:
    """Return (..., size) sines and cosines of flow time (...), periods 4e-3 to 4 (as pi0), float32."""
    grid = torch.arange(size // 2, dtype=torch.float32, device=tau.device) / max(size // 2 - 1, 1)
    angle = 2 * math.pi * tau.float()[..., None] / (4e-3 * (1e3**grid))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """c = Linear(SiLU(Linear(sinusoid(tau)))), (...) -> (..., d)."""

    def __init__(self, width: int, features: int = 64) -> None:
        super().__init__()
        self.features = features
        self.lift = nn.Linear(features, width)
        self.out = nn.Linear(width, width)

    def forward(self, tau: Tensor) -> Tensor:
        """Embed flow times (...) in [0, 1]."""
        return self.out(nn.functional.silu(self.lift(sinusoid(tau, self.features))))


class Modulators(NamedTuple):
    """Scales (already 1 + s), shifts and gate deviations, broadcastable to the tokens; None where there is none."""

    scale1: Tensor
    shift1: Tensor
    gate1: Tensor | None = None
    scale2: Tensor | None = None
    shift2: Tensor | None = None
    gate2: Tensor | None = None


class Modulation(nn.Module):
    """The zero-initialised linear map from c to a block's modulators."""

    def __init__(self, width: int, mode: ModulationMode) -> None:
        super().__init__()
        self.mode = mode
        self.parts = 2 if mode == "groot" else 6
        self.linear = zero_(nn.Linear(width, self.parts * width))

    def forward(self, condition: Tensor) -> Modulators:
        """Return the modulators of condition (..., d), with a token axis inserted: (..., 1, d)."""
        parts = self.linear(nn.functional.silu(condition)).unsqueeze(-2).chunk(self.parts, dim=-1)
        if self.mode == "groot":
            return Modulators(1 + parts[0], parts[1])
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        return Modulators(1 + scale1, shift1, gate1, 1 + scale2, shift2, gate2)
