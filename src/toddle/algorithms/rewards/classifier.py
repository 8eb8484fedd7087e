"""`classifier:FOLDER`: whether a step looks like the end of a success, by three classifiers of which the least counts.

VICE (Fu et al. 2018, arXiv 1805.11686) and what came of it pay the logit at each step, which pays for staying; here the
probability is a potential.  Positive are the last three steps of successes, negative the first halves of successes and
all of failures; without failures it knows no near misses.  It learns on mixtures of two of these, with labels mixed
alike (mixup, Zhang et al. 2018, arXiv 1710.09412, as in VICE's code): without them it is certain nearly everywhere, and
a potential that says 0 until shortly before the end guides nobody there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.algorithms.rewards.learned import BATCH, LearnedTerm, RecordedEpisode, Standard, train
from toddle.algorithms.rewards.potential import PotentialTerm
from toddle.algorithms.rewards.steps import Seen
from toddle.models.mlp import make_mlp

__all__ = ["ClassifierTerm"]

LAST, MEMBERS, CLIP = 3, 3, 5.0


class _Classifier(nn.Module):
    """Logits of several classifiers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standard(size)
        self.nets = nn.ModuleList(make_mlp((size, 64, 64, 1)) for _ in range(MEMBERS))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (..., members)."""
        x = self.standard(features)
        return torch.cat([net(x) for net in self.nets], -1)


class ClassifierTerm(LearnedTerm, PotentialTerm):
    """The probability of success."""

    name, Model = "classifier", _Classifier

    @classmethod
    def teach(cls, model: _Classifier, episodes: Sequence[RecordedEpisode], steps: int, seed: int) -> None:
        """Train on mixtures of as many positive as negative steps."""
        ends = torch.cat([one.features[-LAST:] for one in episodes if one.success])
        others = [one.features[: len(one.features) // 2] if one.success else one.features for one in episodes]
        rest = torch.cat(others)
        label = torch.cat([torch.ones(BATCH // 2), torch.zeros(BATCH // 2)])[:, None]

        def loss(draw: torch.Generator) -> Tensor:
            step = torch.cat([part[torch.randint(len(part), (BATCH // 2,), generator=draw)] for part in (ends, rest)])
            other, share = torch.randperm(len(step), generator=draw), torch.rand(len(step), 1, generator=draw)
            mixed, wanted = (torch.lerp(part[other], part, share) for part in (step, label))
            return F.binary_cross_entropy_with_logits(model(mixed), wanted.expand(-1, MEMBERS))

        train(model, loss, steps // 2, seed)

    @torch.no_grad()
    def potential(self, seen: Seen) -> Tensor:
        """Return the least probability (T, B)."""
        logits: Tensor = self.model(self.check(seen))
        return logits.min(-1).values.clamp(-CLIP, CLIP).sigmoid()
