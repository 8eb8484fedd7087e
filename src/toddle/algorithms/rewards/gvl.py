"""`gvl:FOLDER`: how many steps of demonstrations come before this one, by a model that puts shuffled steps in order.

GVL (Ma et al. 2024, arXiv 2411.04549) has a vision-language model order shuffled pictures, so that it cannot answer by
their place.  Here the question is about two steps at a time, which of them comes first, over features of a frozen
backbone or states, and the value of a step is the share of 64 steps of demonstrations that are said to come before it.
Paid as a potential.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.algorithms.rewards.learned import BATCH, LearnedTerm, RecordedEpisode, Standard, pairs_of, train
from toddle.algorithms.rewards.potential import PotentialTerm
from toddle.algorithms.rewards.steps import Seen
from toddle.models.mlp import make_mlp

__all__ = ["OrderTerm"]

ANCHORS = 64


class _Order(nn.Module):
    """Says of two steps whether the first comes before the second; antisymmetric."""

    anchors: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standard(size)
        self.net = make_mlp((2 * size, 128, 128, 1))
        self.register_buffer("anchors", torch.zeros(ANCHORS, size))

    def before(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the logit (...) of `first` (..., F) coming before `second` (..., F)."""
        a, b = self.standard(first), self.standard(second)
        there = self.net(torch.cat([b - a, a + b], -1))
        back = self.net(torch.cat([a - b, a + b], -1))
        return (there - back)[..., 0]


class OrderTerm(LearnedTerm, PotentialTerm):
    """The share of steps of demonstrations that come before."""

    name, Model = "gvl", _Order

    @classmethod
    def teach(cls, model: _Order, episodes: Sequence[RecordedEpisode], steps: int, seed: int) -> None:
        """Train on pairs of steps of successes."""
        good = [one for one in episodes if one.success]

        def loss(draw: torch.Generator) -> Tensor:
            first, second, shares, _ = pairs_of(good, BATCH, draw)
            apart = shares[:, 0] != shares[:, 1]
            said = model.before(first[apart], second[apart])
            return F.binary_cross_entropy_with_logits(said, (shares[:, 0] < shares[:, 1])[apart].float())

        model.anchors.copy_(pairs_of(good, ANCHORS, torch.Generator().manual_seed(seed))[0])
        train(model, loss, steps, seed)

    @torch.no_grad()
    def potential(self, seen: Seen) -> Tensor:
        """Return the share (T, B)."""
        features = self.check(seen)
        said: Tensor = self.model.before(self.model.anchors, features[..., None, :])
        return said.sigmoid().mean(-1)
