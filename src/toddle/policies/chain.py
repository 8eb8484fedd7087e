"""What every policy shares that draws a chunk through the links of `policies.links`: the draw, and the density."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from toddle.policies.links import DiffusionLinks, FlowLinks

__all__ = ["Reduce", "draw_chain", "link_density"]

_LOG_2PI = math.log(2 * math.pi)
Reduce = Literal["mean", "sum"]
"""How a link's log-density is formed from its dimensions."""


def draw_chain(
    links: DiffusionLinks | FlowLinks,
    noise: Tensor,
    single: Tensor | None,
    link: Callable[[int, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]],
    density: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    generator: torch.Generator | None,
    *,
    first: int = 0,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Go through all links from `noise` (B, H, A); return the chunk (B, H, A), the chain (B, C), log_prob (B, L).

    single: the one stochastic step of each decision (B, 1), None where all are.
    link(i, x (B, 1, H, A), index (1,), level): mean and standard deviation of step i.
    density(y, mean, std): log-density (B, L) and entropy of chunks (B, L, H, A).
    first: the step from which links are scored.  `deterministic`: no noise, and a log-density of 0.
    """
    x, states, means, stds = noise, [noise], [], []
    order = torch.arange(links.steps, device=x.device)
    for i in range(links.steps):
        mean, std = link(i, x[:, None], order[i : i + 1], links.spread_at(i, single))
        drawn = links.draw(mean, std, i == links.steps - 1, generator, deterministic)
        if i >= first:
            means.append(mean)
            stds.append(std.expand_as(mean))
        x = drawn[:, 0]
        states.append(x)
    scored = torch.stack(states[first:], 1)
    log_prob = x.new_zeros(len(x), links.steps - first)
    if not deterministic:  # of all links at once
        log_prob, _ = density(scored[:, 1:], torch.cat(means, 1), torch.cat(stds, 1))
    chain, log_prob = links.pack(scored, log_prob, single)
    return x, chain, log_prob


def link_density(
    y: Tensor,
    mean: Tensor,
    std: Tensor,
    executed: int,
    reduce: Reduce,
    bounds: tuple[float, float],
    own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log-density (M, L) and entropy (M,) of chunks y (M, L, H, A): of the `executed` first actions alone.

    std: that of the log-density, broadcastable.  bounds: of a dimension's log-density, where it is averaged.
    own: (M, executed, A) float, 1 for the numbers that count; None: all.
    """
    std = std.expand_as(mean)[..., :executed, :]
    z = (y - mean)[..., :executed, :] / std
    log_prob = -0.5 * (z * z + _LOG_2PI) - std.log()
    entropy = 0.5 * (1 + _LOG_2PI) + std.log()
    if reduce == "mean":
        log_prob = log_prob.clamp(*bounds)
    if own is None:
        entropy = entropy.flatten(1).mean(1)
        return (log_prob.flatten(2).sum(-1) if reduce == "sum" else log_prob.flatten(2).mean(-1)), entropy
    weight = own[:, None]
    count = own.sum((1, 2))
    total = (log_prob * weight).flatten(2).sum(-1)
    entropy = (entropy * weight).flatten(1).sum(1) / (count * y.shape[1])
    return (total if reduce == "sum" else total / count[:, None]), entropy
