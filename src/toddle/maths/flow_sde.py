"""Integration steps of a flow turned into Gaussian links, so that PPO can score them.

Flow time as everywhere here: tau = 0 is noise, tau = 1 the action, v = a - eps, x_tau = (1 - tau) eps + tau a.
The sources count the other way (t = 1 - tau).
Sources: pi_RL (Flow-SDE and Flow-Noise), Flow-GRPO (arXiv 2505.05470, eq. 9), ReinFlow (arXiv 2505.22094).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["flow_ode_mean", "flow_sde_link", "squashed_std"]


def flow_ode_mean(x: Tensor, velocity: Tensor, step: Tensor | float) -> Tensor:
    """Return the Euler step x + step * v: the mean of a link of Flow-Noise and ReinFlow."""
    return x + step * velocity


def flow_sde_link(
    x: Tensor, velocity: Tensor, tau: Tensor | float, step: Tensor | float, level: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of x_{tau + step} under the SDE with the flow's marginals (Flow-SDE).

    sigma = level * sqrt((1 - tau) / tau); at tau = 0, where that is infinite, the end of the step stands in the
    denominator.  level = 0 is the ODE.  All arguments broadcast.
    """
    tau, step = torch.as_tensor(tau, dtype=x.dtype), torch.as_tensor(step, dtype=x.dtype)
    noise_share = 1 - tau
    action, noise = x + noise_share * velocity, x - tau * velocity
    sigma = level * (noise_share / torch.where(tau > 0, tau, tau + step)).sqrt()
    after = tau + step
    mean = after * action + (1 - after - sigma**2 * step / (2 * noise_share)) * noise
    return mean, sigma * step.sqrt()


def squashed_std(raw: Tensor, low: float, high: float) -> Tensor:
    """Return a standard deviation in [low, high] from an unbounded network output: tanh on the log-variance."""
    low_log, high_log = 2 * math.log(low), 2 * math.log(high)
    log_variance = low_log + (high_log - low_log) * (torch.tanh(raw) + 1) / 2
    return (0.5 * log_variance).exp()
