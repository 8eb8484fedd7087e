"""Gaussian densities against torch.distributions."""

from __future__ import annotations

import torch
from torch.distributions import Independent, Normal

from toddle.maths.distributions import gaussian_entropy, gaussian_log_prob


def case() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 5, 2, generator=generator, dtype=torch.float64) for _ in range(5))


def test_log_prob_and_entropy() -> None:
    x, mean, log_std, *_ = case()
    oracle = Independent(Normal(mean, log_std.exp()), 1)
    assert torch.allclose(gaussian_log_prob(x, mean, log_std), oracle.log_prob(x))
    assert torch.allclose(gaussian_entropy(log_std), oracle.entropy())


def test_a_shared_standard_deviation() -> None:
    x, mean, log_std, *_ = case()
    oracle = Independent(Normal(mean, log_std[0, 0].exp()), 1)
    assert torch.allclose(gaussian_log_prob(x, mean, log_std[0, 0]), oracle.log_prob(x))


def test_gradients_by_hand_are_those_of_autograd() -> None:
    x, mean, log_std, *_ = case()
    inputs = (x.requires_grad_(), mean.requires_grad_(), log_std[0, 0].detach().requires_grad_())
    assert torch.autograd.gradcheck(gaussian_log_prob, inputs)
    assert torch.autograd.gradcheck(gaussian_log_prob, (*inputs[:2], log_std.requires_grad_()))
