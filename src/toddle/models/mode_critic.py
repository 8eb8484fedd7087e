"""Twin distributional critics on a fixed grid of values, with slow copies (DDiffPG; C51; TD3's twins)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.maths.categorical import expectation, project, smaller_distribution
from toddle.models.mlp import make_mlp

__all__ = ["ModeCritic"]


class ModeCritic(nn.Module):
    """Two networks (s, a) -> distribution over atoms, and their averaged copies."""

    atoms: Tensor

    def __init__(
        self, observation: int, action: int, *, hidden: tuple[int, ...], atoms: int, top: float, seed: int
    ) -> None:
        """Build both networks over `atoms` values from 0 to `top`; the weights follow from `seed`."""
        super().__init__()
        self.register_buffer("atoms", torch.linspace(0.0, top, atoms))
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(seed)
            sizes = [observation + action, *hidden, atoms]
            self.twins = nn.ModuleList([make_mlp(sizes, "elu") for _ in range(2)])
        self.slow = copy.deepcopy(self.twins).requires_grad_(False)

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return the smaller mean (B,) of the twins, with gradients to the action."""
        x = torch.cat([observation, action], -1)
        means = [expectation(twin(x).softmax(-1), self.atoms) for twin in self.twins]
        return torch.minimum(*means)

    def loss(self, batch: dict[str, Tensor], reward: Tensor, next_action: Tensor, discount: float) -> Tensor:
        """Return the summed binary cross-entropy of the twins to the projected target of the smaller slow twin."""
        with torch.no_grad():
            after = torch.cat([batch["next_observation"], next_action], -1)
            first, second = (twin(after).softmax(-1) for twin in self.slow)
            chosen = smaller_distribution(first, second, self.atoms)
            target = project(chosen, reward, discount * batch["alive"], self.atoms).clamp(max=1.0)  # by rounding
        x = torch.cat([batch["observation"], batch["action"]], -1)
        guesses = [twin(x).softmax(-1).clamp(1e-6, 1 - 1e-6) for twin in self.twins]
        return torch.stack([F.binary_cross_entropy(guess, target) for guess in guesses]).sum()

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Move the slow copies towards the twins by `rate`."""
        for slow, fast in zip(self.slow.parameters(), self.twins.parameters(), strict=True):
            slow.lerp_(fast, rate)
