"""The SDE keeps the flow's marginals, its mean is Flow-GRPO's, and level 0 is the ODE."""

from __future__ import annotations

import torch

from toddle.maths.flow_sde import flow_ode_mean, flow_sde_link, squashed_std

MEAN, STD = 1.5, 0.4
F64 = torch.float64


def exact_velocity(x: torch.Tensor, tau: float) -> torch.Tensor:
    """E[a - eps | x_tau] for a ~ N(1.5, 0.4), eps ~ N(0, 1): conditioning of two Gaussians."""
    variance = (1 - tau) ** 2 + tau**2 * STD**2
    surplus = (x - tau * MEAN) / variance
    return MEAN + tau * STD**2 * surplus + (tau - 1) * surplus


def sample(level: float, steps: int = 100, reverse: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, generator=generator, dtype=F64)
    for i in range(steps):
        tau = i / steps
        velocity = exact_velocity(x, 1 - tau if reverse else tau)
        mean, std = flow_sde_link(x, velocity, tau, 1 / steps, level)
        x = mean + std * torch.randn(x.shape, generator=generator, dtype=F64)
    return x


def test_marginals_are_preserved() -> None:
    for level in (0.0, 0.5):
        x = sample(level)
        assert abs(x.mean() - MEAN) < 0.02
        assert abs(x.std() - STD) < 0.02


def test_reversed_flow_time_is_caught() -> None:
    x = sample(0.5, reverse=True)
    assert abs(x.mean() - MEAN) > 0.1 or abs(x.std() - STD) > 0.1


def test_mean_is_flow_grpos() -> None:
    """Flow-GRPO eq. 9 in its own direction (t = 1 is noise, u = eps - a, dt < 0), typed from the paper."""
    generator = torch.Generator().manual_seed(1)
    x, v = torch.randn(2, 5, 3, generator=generator, dtype=F64)
    t, dt, level = 0.6, -0.1, 0.7
    sigma = level * (t / (1 - t)) ** 0.5
    u = -v
    paper = x * (1 + sigma**2 / (2 * t) * dt) + u * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    mean, std = flow_sde_link(x, v, 1 - t, -dt, level)
    torch.testing.assert_close(mean, paper, atol=1e-12, rtol=0)
    assert abs(float(std) - sigma * 0.1**0.5) < 1e-12


def test_level_zero_is_the_ode_and_the_first_step_is_finite() -> None:
    x, v = torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=F64)
    mean, std = flow_sde_link(x, v, 0.25, 0.25, 0.0)
    torch.testing.assert_close(mean, flow_ode_mean(x, v, 0.25), atol=1e-12, rtol=0)
    assert float(std) == 0
    assert 0 < float(flow_sde_link(x, v, 0.0, 0.25, 0.5)[1]) < 1


def test_squashed_std_stays_in_its_band() -> None:
    std = squashed_std(torch.linspace(-20, 20, 9, dtype=F64), 0.08, 0.16)
    assert abs(std[0] - 0.08) < 1e-9 and abs(std[-1] - 0.16) < 1e-9
    assert bool((std.diff() >= 0).all())
    assert abs(std[4] - (0.08 * 0.16) ** 0.5) < 1e-12
