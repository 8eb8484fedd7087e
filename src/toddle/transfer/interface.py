"""The interface kept: a resampler learns to make the RL policy's goal tokens of a vision-language model's tokens.

A converted expert's cross-attention read goal tokens.  Where the tokens of the VLM take their place through an adapter,
what it had learned to read is not there any more.  Here the goal tokens stay what it reads: while the RL policy acts
in scenes with pictures, sentences and known goals, a resampler learns to make of the pictures what the goal encoder
makes of the goal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.types import Observation
from toddle.models.resampler import Resampler
from toddle.transfer.convert import Convertible

__all__ = ["Moments", "learn_interface", "moments_of", "share_unexplained"]


class Moments(NamedTuple):
    """N moments of rollouts: what the backbone read, and the goal token that the RL policy acted by."""

    context: Tensor  # (N, G, D_vlm) float16
    mask: Tensor  # (N, G) bool
    token: Tensor  # (N, d_g)


@torch.no_grad()
def moments_of(policy: Convertible, seen: Observation) -> Moments:
    """Return the moments of segments (T, B, ...).  Raises InputError where a moment has not one goal exactly."""
    found: Any = seen
    if "goal_mask" not in found or not bool((found["goal_mask"].sum(-1) == 1).all()):
        counts = found["goal_mask"].sum(-1).unique().tolist() if "goal_mask" in found else 0
        raise problem("interface.envs", "environments with one goal at a time (touch/<task>)", f"{counts} goals")
    lead = tuple(found["goal_mask"].shape[:-1])
    tokens, mask = policy.goals(found["goal"], found["goal_mask"], None, lead)
    return Moments(found["context"].flatten(0, 1), found["context_mask"].flatten(0, 1), tokens[mask])


def learn_interface(
    resampler: Resampler,
    moments: Moments,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train the resampler in place: each of its tokens is to be the goal token, in squared error.

    Attention over equal tokens reads what it reads of one, so that any number of queries keeps the function.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(resampler.parameters(), lr=learning_rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        rows = torch.randint(len(moments.token), (batch,), generator=generator)
        made, _ = resampler(moments.context[rows].float(), moments.mask[rows])
        loss = (made - moments.token[rows, None]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(resampler.parameters(), 1.0)
        optimiser.step()
        if on_step is not None:
            on_step(step, loss.item())


@torch.no_grad()
def share_unexplained(resampler: Resampler, moments: Moments, *, batch: int = 256) -> float:
    """Return the squared error over the tokens' variance: 0 is exact, 1 is no better than their mean."""
    error = 0.0
    for begin in range(0, len(moments.token), batch):
        rows = slice(begin, begin + batch)
        made, _ = resampler(moments.context[rows].float(), moments.mask[rows])
        error += float((made - moments.token[rows, None]).square().mean((1, 2)).sum())
    spread = (moments.token - moments.token.mean(0)).square().mean()
    return error / len(moments.token) / max(float(spread), 1e-12)
