"""`rnd`: a bonus for what a fixed random network says and a predictor does not foresee.

|| predictor - fixed random network || of what a step led to, over the running deviation of its discounted sums (Burda
et al. 2018, arXiv 1810.12894).  The predictor learns from a quarter of the steps after they were paid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.rewards.steps import Steps, Term
from toddle.core.device import CPU, device_of
from toddle.core.seeding import torch_generator
from toddle.experience.collect import RewardScale
from toddle.models.novelty import Novelty
from toddle.optim.flat_adam import FlatAdam

__all__ = ["NoveltyTerm"]

RATE, PASSES, SHARE = 1e-3, 4, 4
"""The predictor's learning rate, its steps a rollout, and one of so many steps that it learns from."""


class NoveltyTerm(Term):
    """Random network distillation over features."""

    name, kind = "rnd", "bonus"

    def __init__(self, seed: int) -> None:
        self.seed, self.generator = seed, torch_generator(seed, "rnd")
        self.network: Novelty | None = None
        self.optimiser: FlatAdam | None = None
        self.scales: dict[int, RewardScale] = {}

    def _built(self, size: int, device: torch.device = CPU) -> Novelty:
        """Return the network where the features are; a checkpoint is restored before that is known."""
        if self.network is None or device_of(self.network) != device:
            held = self.state_dict()
            self.network = Novelty(size, seed=self.seed).to(device)
            self.optimiser = FlatAdam({"predictor": (self.network.predictor, RATE)}, max_norm=10.0)
            if held["network"] is not None:
                self.network.load_state_dict(held["network"])
                self.optimiser.load_state_dict(held["optimiser"])
        return self.network

    @torch.no_grad()
    def paid(self, steps: Steps) -> Tensor:
        """Return the bonus (T, B), over the deviation of its discounted sums, which no episode's end cuts."""
        network = self._built(steps.now.features.shape[-1], steps.now.features.device)
        if not int(network.norm.count.max()):
            network.norm.update(steps.following.features[steps.real])
        bonus = network.novelty(steps.following.features)
        scale = self.scales.setdefault(steps.source, RewardScale(bonus.shape[1]))
        deviation = scale.update(bonus, torch.zeros_like(steps.first), steps.discount)
        return bonus / deviation

    def fit(self, steps: Steps) -> None:
        """Let the predictor follow, and take the features into the running statistics."""
        features = steps.following.features[steps.real]
        network = self._built(features.shape[-1], features.device)
        assert self.optimiser is not None
        for _ in range(PASSES):
            chosen = torch.randperm(len(features), generator=self.generator)[: max(1, len(features) // SHARE)]
            loss = network.loss(features[chosen])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.clip()
            self.optimiser.step()
        network.norm.update(features)

    def state_dict(self) -> dict[str, Any]:
        """Return networks, moments, scales and the generator."""
        return {
            "size": 0 if self.network is None else self.network.norm.mean.shape[-1],
            "network": None if self.network is None else dict(self.network.state_dict()),
            "optimiser": None if self.optimiser is None else self.optimiser.state_dict(),
            "scales": {str(source): scale.state_dict() for source, scale in self.scales.items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        if state["network"] is not None:
            network = self._built(int(state["size"]))
            network.load_state_dict(state["network"])
            assert self.optimiser is not None
            self.optimiser.load_state_dict(state["optimiser"])
        for source, kept in state["scales"].items():
            self.scales[int(source)] = RewardScale(len(kept["sums"]))
            self.scales[int(source)].load_state_dict(kept)
        self.generator.set_state(state["generator"])
