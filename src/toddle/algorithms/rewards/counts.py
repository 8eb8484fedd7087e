"""`counts`: a bonus of 1 / sqrt(n) for what was seen n times, by hashes of features.

A hash is the signs of 16 random directions (SimHash; Tang et al. 2017, arXiv 1611.04717) of features standardised by
the first rollout, so that a hash means the same ever after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.rewards.steps import Steps, Term
from toddle.core.seeding import torch_generator

__all__ = ["CountTerm"]

BITS = 16


class CountTerm(Term):
    """Counts of hashes of features."""

    name, kind = "counts", "bonus"

    def __init__(self, seed: int) -> None:
        self.seed, self.seen = seed, torch.zeros(2**BITS, dtype=torch.int64)
        self.mean: Tensor | None = None
        self.deviation = torch.ones(1)
        self._found = torch.zeros(0, dtype=torch.int64)

    def hashes(self, features: Tensor) -> Tensor:
        """Return the hash (N,) of features (N, F)."""
        if self.mean is None:
            self.mean = features.mean(0)
            self.deviation = features.std(0, correction=0)
        directions = torch.randn(features.shape[-1], BITS, generator=torch_generator(self.seed, "counts"))
        standard = (features - self.mean) / torch.where(self.deviation > 1e-6, self.deviation, 1.0)
        return ((standard @ directions > 0).long() * 2 ** torch.arange(BITS)).sum(-1)

    def paid(self, steps: Steps) -> Tensor:
        """Return 1 / sqrt(n), (T, B); the second of two alike in one rollout counts as the second."""
        real = steps.real.flatten()
        found = self.hashes(steps.following.features.flatten(0, 1)[real].cpu())
        order = found.argsort(stable=True)
        place = torch.arange(len(found))
        begins = torch.ones_like(found, dtype=torch.bool)
        begins[1:] = found[order][1:] != found[order][:-1]
        rank = torch.empty_like(found)
        rank[order] = place - torch.cummax(torch.where(begins, place, 0), 0).values
        bonus = steps.discount.new_zeros(real.shape)
        bonus[real] = ((self.seen[found] + rank + 1).float() ** -0.5).to(bonus.device)
        self._found = found
        return bonus.unflatten(0, steps.first.shape)

    def fit(self, steps: Steps) -> None:
        """Count what was paid."""
        self.seen += torch.bincount(self._found, minlength=2**BITS)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and what features are standardised by."""
        return {"seen": self.seen.clone(), "mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.seen, self.mean, self.deviation = state["seen"].clone(), state["mean"], state["deviation"]
