"""Choosing among candidates by their values.

V-GPS (Nakamoto et al. 2024, arXiv 2410.13816) draws from softmax(Q / temperature).  Its temperature of 1 is nearly
uniform where the candidates' values differ by a tenth, so here it is in standard deviations of a row's values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.core.seeding import rand

__all__ = ["choose"]


def choose(values: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Return the index (B,) of one of K candidates by their values (B, K).

    It is drawn from softmax(values / (temperature std)), std that of the row; equal values are drawn alike.
    At temperature 0 it is the largest, the first of equals, and nothing is drawn.
    """
    if temperature == 0.0:
        return values.argmax(-1)
    spread = values.std(-1, correction=0, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    apart = (values - values.amax(-1, keepdim=True)) / spread
    shares = (apart / temperature).softmax(-1).cumsum(-1)
    drawn = rand((len(values), 1), generator, values.device) * shares[:, -1:]
    return (shares <= drawn).sum(-1).clamp(max=values.shape[-1] - 1)
