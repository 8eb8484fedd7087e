"""Flow matching, and the one place that says which way its time runs: tau = 0 is noise, tau = 1 is the action.

    x_tau = (1 - tau) eps + tau a          interpolate
    u     = a - eps                        target_velocity
    v     = (a1 - x_tau) / (1 - tau)       velocity_from_endpoint (a1: the estimated action)
    x'    = x + v d                        euler
    tau   = (s - b) / s, b ~ Beta(1.5, 1)  sample_time (GR00T N1: the mass lies near the noise)
pi0, SmolVLA and RLinf run the other way (t = 1 - tau, velocity -v): `to_pi0` and `from_pi0` stand at that border.
Shapes: actions (..., H, A), tau (...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from toddle.core.seeding import rand

__all__ = [
    "LOSS_FLOOR",
    "contracting",
    "endpoint_from_noise",
    "endpoint_from_velocity",
    "euler",
    "from_pi0",
    "interpolate",
    "sample_time",
    "target_velocity",
    "to_pi0",
    "velocity_from_endpoint",
]

LOSS_FLOOR = 0.05
"""Least 1 - tau in a loss on an endpoint's velocity; without it the last instants weigh 1 / (1 - tau)^2."""


def _wide(tau: Tensor) -> Tensor:
    return tau[..., None, None]


def interpolate(noise: Tensor, action: Tensor, tau: Tensor) -> Tensor:
    """Return x_tau (..., H, A) on the straight line from noise to action."""
    return (1 - _wide(tau)) * noise + _wide(tau) * action


def target_velocity(noise: Tensor, action: Tensor) -> Tensor:
    """Return the velocity of that line."""
    return action - noise


def velocity_from_endpoint(endpoint: Tensor, noisy: Tensor, tau: Tensor, floor: float = LOSS_FLOOR) -> Tensor:
    """Return the velocity that leads from x_tau to `endpoint` at tau = 1.

    floor: least 1 - tau.  Keep LOSS_FLOOR in losses; pass 0 when sampling, where the last step must land exactly.
    """
    return (endpoint - noisy) / (1 - _wide(tau)).clamp(min=floor)


def endpoint_from_velocity(velocity: Tensor, noisy: Tensor, tau: Tensor) -> Tensor:
    """Return where a straight line with this velocity ends at tau = 1."""
    return noisy + (1 - _wide(tau)) * velocity


def endpoint_from_noise(noise: Tensor, noisy: Tensor, tau: Tensor, clamp: float = 1.0) -> Tensor:
    """Return the action that, with this noise, makes x_tau; held to +-clamp, as diffusion samplers do."""
    return ((noisy - (1 - _wide(tau)) * noise) / _wide(tau).clamp(min=1e-6)).clamp(-clamp, clamp)


def contracting(raw: Tensor, noisy: Tensor, tau: Tensor, head: str) -> Tensor:
    """Return a network's output with a share of x_tau, under which small outputs mean actions near 0.

    Head velocity: raw - x_tau.  Head noise: raw + x_tau / |(tau, 1 - tau)|, the diffusion's x of unit variance: taken
    for noise, it leaves next to nothing of itself where x is mostly noise.  Without it random weights make actions of
    the noise they are given, which no policy gradient on their state can see.
    """
    if head == "velocity":
        return raw - noisy
    return torch.addcdiv(raw, noisy, torch.hypot(_wide(tau), 1 - _wide(tau)))


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int | Sequence[float]) -> Tensor:
    """Integrate dx = velocity(x, tau) dtau from noise (..., H, A) at tau = 0 to 1; tau is (...).

    steps: their number, all equal; or the flow times of a diffusion, where `noise` is its x_K of unit variance.
    """
    x = noise
    if isinstance(steps, int):
        for index in range(steps):
            tau = torch.full(noise.shape[:-2], index / steps, dtype=noise.dtype, device=noise.device)
            x = x + velocity(x, tau) / steps
        return x
    x = x * math.hypot(steps[0], 1 - steps[0])  # x_K = c x_tau, c = 1 / |(tau, 1 - tau)|
    for now, after in pairwise([*steps, 1.0]):
        tau = torch.full(noise.shape[:-2], now, dtype=noise.dtype, device=noise.device)
        x = x + (after - now) * velocity(x, tau)
    return x


def sample_time(shape: tuple[int, ...], generator: torch.Generator, s: float = 0.999) -> Tensor:
    """Draw flow times (shape) in [0, 1]: tau = (s - b) / s with b ~ Beta(1.5, 1), whose mean is 1 - 0.6 / s = 0.399."""
    uniform = rand(shape, generator, generator.device)
    return ((s - uniform.pow(2 / 3)) / s).clamp(min=0.0)


def to_pi0(velocity: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Return (velocity, t) in pi0's direction, where t = 1 is noise and t = 0 the action."""
    return -velocity, 1 - tau


def from_pi0(velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return (velocity, tau) in toddle's direction from pi0's."""
    return -velocity, 1 - t
