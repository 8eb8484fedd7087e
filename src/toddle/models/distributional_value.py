"""A value function of states that says a distribution over bins and is taught by cross-entropy, as RECAP's is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.seeding import torch_generator
from toddle.maths.categorical import expectation, spread_over
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["DistributionalValue"]


class DistributionalValue(nn.Module):
    """A softmax over N bins from the least to the greatest return; its value is the mean."""

    atoms: Tensor

    def __init__(self, observation: int, hidden: tuple[int, ...], *, low: float, high: float, bins: int, seed: int):
        """Build it for O numbers of state; the weights follow from `seed`."""
        super().__init__()
        self.scale = RunningNorm((observation,))
        self.register_buffer("atoms", torch.linspace(low, max(high, low + 1e-6), bins))
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=torch_generator(seed, "distributional value"))))
            self.mlp = make_mlp([observation, *hidden, bins], "relu")

    def log_probs(self, observation: Tensor) -> Tensor:
        """Return log-probabilities (B, N) of the bins at observations (B, O)."""
        return torch.log_softmax(self.mlp(self.scale(observation)), -1)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the values (1, B) at observations (B, O), as a `QEnsemble` of one."""
        return expectation(self.log_probs(observation).exp(), self.atoms)[None]

    def loss(self, observation: Tensor, returns: Tensor) -> Tensor:
        """Return the cross-entropy () to returns (B,) that are spread over bins."""
        return -(spread_over(returns, self.atoms) * self.log_probs(observation)).sum(-1).mean()
