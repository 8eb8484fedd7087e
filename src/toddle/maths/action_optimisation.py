"""Actions that a critic improves: the best of several draws, then some steps up its gradient, then one by its value.

Policy-agnostic RL (PA-RL): Mark et al. 2024, arXiv 2412.06685, section 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toddle.core.seeding import rand

__all__ = ["best", "chosen", "climbed"]

Value = Callable[[Tensor], Tensor]
"""Values (..., K) of actions (..., K, A), differentiable."""


def best(value: Value, actions: Tensor, keep: int) -> Tensor:
    """Return the `keep` actions (..., keep, A) of (..., K, A) with the greatest values, best first."""
    with torch.no_grad():
        order = value(actions).topk(keep, dim=-1).indices
    return actions.gather(-2, order[..., None].expand(*order.shape, actions.shape[-1]))


def climbed(
    value: Value, actions: Tensor, *, low: Tensor, high: Tensor, steps: int, rate: float, normalise: bool
) -> tuple[Tensor, Tensor]:
    """Move actions (..., K, A) up the value's gradient; return the best that each met (..., K, A) and its value.

    A step is `rate` times the gradient, with `normalise` divided by its largest number (a step in the units of actions
    then, whatever the values' scale); it is held to [low, high].  No value returned is below the one at the start.
    """
    with torch.enable_grad():
        here = actions.detach().requires_grad_(steps > 0)
        worth = value(here)
        found, most = here.detach(), worth.detach()
        for _ in range(steps):
            (slope,) = torch.autograd.grad(worth.sum(), here)
            if normalise:
                slope = slope / slope.abs().amax(-1, keepdim=True).clamp(min=1e-12)
            here = (here.detach() + rate * slope).clamp(low, high).requires_grad_()
            worth = value(here)
            better = worth.detach() > most
            found = torch.where(better[..., None], here.detach(), found)
            most = torch.where(better, worth.detach(), most)
    return found, most


def chosen(
    actions: Tensor, values: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return an action (..., A) of (..., K, A), drawn by softmax(values / temperature), and its index (...); at 0 the
    best."""
    if temperature > 0.0:  # by Gumbel's noise
        uniform = rand(values.shape, generator, values.device).clamp(1e-20, 1.0 - 1e-7)
        values = values / temperature - (-uniform.log()).log()
    index = values.argmax(-1)
    row = index[..., None, None].expand(*index.shape, 1, actions.shape[-1])
    return actions.gather(-2, row).squeeze(-2), index
