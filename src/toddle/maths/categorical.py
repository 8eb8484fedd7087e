"""Distributional values on a fixed grid of atoms (C51: Bellemare et al. 2017, arXiv 1707.06887; HL-Gauss)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expectation", "project", "smaller_distribution", "spread_over"]


def expectation(probability: Tensor, atoms: Tensor) -> Tensor:
    """Return the mean (...) of distributions (..., N) over atoms (N,)."""
    return (probability * atoms).sum(-1)


def project(probability: Tensor, reward: Tensor, discount: Tensor, atoms: Tensor) -> Tensor:
    """Return the distribution (B, N) of reward + discount * z on the grid, with z ~ probability (B, N).

    reward, discount: (B,).
    Mass between two atoms is shared linearly, mass beyond the ends goes to the ends.
    """
    low, step, count = atoms[0], atoms[1] - atoms[0], len(atoms)
    target = (reward[:, None] + discount[:, None] * atoms).clamp(atoms[0], atoms[-1])
    place = ((target - low) / step).clamp(0, count - 1)
    floor = place.floor().long().clamp(max=count - 2)
    upper = place - floor
    out = torch.zeros_like(probability)
    out.scatter_add_(1, floor, probability * (1 - upper))
    out.scatter_add_(1, floor + 1, probability * upper)
    return out


def spread_over(value: Tensor, atoms: Tensor, width: float = 0.75) -> Tensor:
    """Return, for values (...), the mass (..., N) that a Gaussian around each leaves in the bins around atoms (N,).

    width: its standard deviation in bins (HL-Gauss; Farebrother et al. 2024, arXiv 2403.03950, section 3.1).  Mass
    beyond the ends is left out and the rest made 1, so that values near an end are pulled inwards.
    """
    step = atoms[1] - atoms[0]
    edges = torch.cat([atoms - 0.5 * step, atoms[-1:] + 0.5 * step])
    below = torch.special.ndtr((edges - value.clamp(atoms[0], atoms[-1])[..., None]) / (width * step))
    mass = below.diff(dim=-1)
    return mass / mass.sum(-1, keepdim=True)


def smaller_distribution(first: Tensor, second: Tensor, atoms: Tensor) -> Tensor:
    """Return, row by row, that of two distributions (B, N) whose mean is smaller.

    DDiffPG takes the elementwise minimum of both, which does not sum to 1; comparing means is the twin-critic rule
    without that fault.
    """
    keep = expectation(first, atoms) <= expectation(second, atoms)
    return torch.where(keep[:, None], first, second)
