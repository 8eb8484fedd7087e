"""`vlac:FOLDER`: the progress that a step made, said of the step before and the step after.

VLAC (2025, arXiv 2509.15937) asks a vision-language model how much further the second of two pictures is.  As released
the answer to (a, b) need not be minus that to (b, a), and then going back and forth climbs: twenty per cent there and
back, fifty times, ends at 87 of 100.  Here it is minus that by construction, c(a, b) = (h(a, b) - h(b, a)) / 2, trained
on the share of a success that lies between the two; between steps of a failure there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toddle.algorithms.rewards.learned import BATCH, LearnedTerm, RecordedEpisode, Standard, pairs_of, train
from toddle.algorithms.rewards.steps import Steps
from toddle.models.mlp import make_mlp

__all__ = ["DeltaTerm"]


class _Delta(nn.Module):
    """Says how much further the second of two steps is, as a share of the task."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standard(size)
        self.net = make_mlp((2 * size, 128, 128, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the progress (...) from `first` to `second` (..., F)."""
        a, b = self.standard(first), self.standard(second)
        there, back = self.net(torch.cat([a, b], -1)), self.net(torch.cat([b, a], -1))
        return 0.5 * (there - back)[..., 0]


class DeltaTerm(LearnedTerm):
    """Progress from step to step."""

    name, kind, Model = "vlac", "delta", _Delta

    @classmethod
    def teach(cls, model: _Delta, episodes: Sequence[RecordedEpisode], steps: int, seed: int) -> None:
        """Train on pairs of steps, near ones and far ones; a fifth of them of failures, where there are any."""
        good, bad = [one for one in episodes if one.success], [one for one in episodes if not one.success]

        def loss(draw: torch.Generator) -> Tensor:
            first, second, shares, _ = pairs_of(good, BATCH, draw)
            found = (model(first, second) - (shares[:, 1] - shares[:, 0])).square().mean()
            if bad:
                first, second, _, _ = pairs_of(bad, BATCH // 4, draw)
                found = found + 0.25 * model(first, second).square().mean()
            return found

        train(model, loss, steps, seed)

    @torch.no_grad()
    def paid(self, steps: Steps) -> Tensor:
        """Return the progress (T, B) that each step made."""
        said: Tensor = self.model(self.check(steps.now), self.check(steps.following))
        return said

    def value(self, steps: Steps) -> Tensor:
        """Return the progress (T, B) so far."""
        paid = self.paid(steps)
        return paid.cumsum(0) - paid
