"""Correlated noise over a chunk against torch's multivariate normal, and through the causal policy."""

from __future__ import annotations

import pytest
import torch

from toddle.maths.distributions import chunk_modes, gaussian_entropy, gaussian_log_prob


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_modes_diagonalise_the_covariance(correlation: float) -> None:
    steps, scale = 5, 0.7
    basis, log_std = chunk_modes(steps, correlation)
    torch.testing.assert_close(basis @ basis.T, torch.eye(steps), atol=1e-6, rtol=0)
    covariance = (1 - correlation) * torch.eye(steps) + correlation * torch.ones(steps, steps)
    torch.testing.assert_close(basis.T @ torch.diag((2 * log_std).exp()) @ basis, covariance, atol=1e-6, rtol=0)
    oracle = torch.distributions.MultivariateNormal(torch.zeros(steps), scale**2 * covariance)
    x = torch.randn(20, steps, generator=torch.Generator().manual_seed(0))
    spread = log_std + torch.tensor(scale).log()
    torch.testing.assert_close(gaussian_log_prob(x @ basis.T, torch.zeros(steps), spread), oracle.log_prob(x))
    torch.testing.assert_close(gaussian_entropy(spread), oracle.entropy())


def test_a_correlated_chunk_moves_farther() -> None:
    """The mean of 8 steps has variance (1 + 7 c) / 8: 0.9125 at c = 0.9, and 0.125 with independent noise."""
    generator = torch.Generator().manual_seed(0)
    for correlation, expected in ((0.9, 0.9125), (0.0, 0.125)):
        basis, log_std = chunk_modes(8, correlation)
        noise = (torch.randn(40_000, 8, generator=generator) * log_std.exp()) @ basis
        assert noise.mean(dim=1).var().item() == pytest.approx(expected, rel=0.05)
        assert noise.var(dim=0).mean().item() == pytest.approx(1.0, rel=0.05)
