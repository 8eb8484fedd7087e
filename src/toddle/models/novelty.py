"""Bonuses for states not seen before: RND and NovelD.

RND (Burda et al. 2018, arXiv 1810.12894): n(s) = || f(s) - g(s) ||, f fixed and random, g trained to follow it.
NovelD (Zhang et al. 2021, as in DDiffPG's code): max(n(s') - 0.5 n(s), 0), the step over the border of the known.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["Novelty"]


class Novelty(nn.Module):
    """n(s) and the bonus of a step, for observations (..., O)."""

    norm: RunningNorm

    def __init__(self, size: int, *, hidden: tuple[int, ...] = (256, 128), outputs: int = 64, seed: int = 0) -> None:
        """Build both networks; the weights follow from `seed`.  The target gets no gradient."""
        super().__init__()
        self.norm = RunningNorm((size,), clip=5.0)
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(seed)
            self.target = make_mlp([size, *hidden, outputs], "elu").requires_grad_(False)
            self.predictor = make_mlp([size, *hidden, outputs], "elu")

    def novelty(self, observation: Tensor) -> Tensor:
        """Return n(s) (...), with the predictor's gradient."""
        x = self.norm(observation)
        return torch.linalg.vector_norm(self.predictor(x) - self.target(x), dim=-1)

    @torch.no_grad()
    def bonus(self, before: Tensor, after: Tensor, kind: Literal["rnd", "noveld"]) -> Tensor:
        """Return the bonus (...) of steps from `before` to `after`."""
        n = self.novelty(after)
        return n if kind == "rnd" else (n - 0.5 * self.novelty(before)).clamp(min=0)

    def loss(self, observation: Tensor) -> Tensor:
        """Return the predictor's mean squared error."""
        x = self.norm(observation)
        return (self.predictor(x) - self.target(x)).square().mean()
