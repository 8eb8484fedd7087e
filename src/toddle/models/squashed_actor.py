"""A small actor over states: a Gaussian held to [-1, 1] by a tanh, with the exact density of what comes out.

Haarnoja et al. 2018, "Soft actor-critic" (arXiv 1812.05905), appendix C: a = tanh(u), u ~ N(mean(s), std(s)^2) and
log p(a) = log N(u) - sum_i log(1 - tanh(u_i)^2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.maths.distributions import noise_log_prob, tanh_log_slope
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["SquashedActor"]

LOG_STD = (-20.0, 2.0)
"""Bounds of the logarithm of the standard deviation, as in the authors' code."""


class SquashedActor(nn.Module):
    """States (..., O) -> mean and log-deviation (..., N) of u; states are normalised by running statistics."""

    def __init__(
        self, inputs: int, outputs: int, *, hidden: tuple[int, ...], log_std: float, generator: torch.Generator
    ) -> None:
        """Build the network; log-deviations begin near `log_std`.  Weights are torch's, drawn from `generator`."""
        super().__init__()
        self.scale, self.outputs = RunningNorm((inputs,)), outputs
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.mlp = make_mlp([inputs, *hidden, 2 * outputs], "relu")
        with torch.no_grad():
            self.last.bias[outputs:] += log_std

    @property
    def last(self) -> nn.Linear:
        """The layer whose first rows are the mean's, and the others the deviation's."""
        layer = self.mlp[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-deviation (..., N) of u."""
        mean, log_std = self.mlp(self.scale(state)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def draw(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return u = mean + std noise (..., N) and the log-density (...) of tanh(u)."""
        mean, log_std = self(state)
        u = torch.addcmul(mean, noise, log_std.exp())
        return u, noise_log_prob(noise, log_std) - tanh_log_slope(u).sum(-1)

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return tanh(u) (..., N) and its log-density (...), with gradients."""
        u, log_prob = self.draw(state, noise)
        return u.tanh(), log_prob

    def update_normaliser(self, state: Tensor) -> None:
        """Take states (..., O) into the running statistics."""
        self.scale.update(state)
