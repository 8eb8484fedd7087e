"""Which self-attention matters least: D_l = E |a - a_without_l|^2 / Var(a) on observations (docs/conversion.md)."""

from __future__ import annotations

import torch

from toddle.core.types import Observation
from toddle.policies.causal import CausalPolicy

__all__ = ["draw_observation", "lesion_scores", "rank_blocks"]


def draw_observation(policy: CausalPolicy, length: int, batch: int, generator: torch.Generator) -> Observation:
    """Draw observations (T, B, ...) of the first body from the policy's own statistics: no environment needed."""
    expert = policy.config.expert
    body, norm = expert.bodies[0], policy.expert.tokens.norm
    noise = torch.randn(length, batch, body.proprio, generator=generator)
    scale = norm.var[0, : body.proprio].sqrt().float()
    first = torch.zeros(length, batch, dtype=torch.bool)
    first[0] = True
    previous = torch.rand(length, batch, expert.executed * body.action, generator=generator) * 2 - 1
    return Observation(
        proprio=noise * scale + norm.mean[0, : body.proprio].float(),
        first=first,
        body=torch.zeros(length, batch, dtype=torch.int64),
        previous_action=torch.where(first[..., None], 0.0, previous),
    )


@torch.no_grad()
def lesion_scores(policy: CausalPolicy, observation: Observation) -> dict[int, float]:
    """Return D_l of every self-attention block, from segments (T, B, ...) of rollouts."""
    whole = policy.mean(observation)
    variance = whole.flatten(0, 1).var(dim=0, correction=0).sum().clamp(min=1e-12)
    scores = {}
    for index, block in enumerate(policy.expert.trunk.layers()):
        if block.kind != "self":
            continue
        kept = {key: value.clone() for key, value in block.attention.out.state_dict().items()}
        for value in block.attention.out.parameters():
            value.zero_()
        without = policy.mean(observation)
        block.attention.out.load_state_dict(kept)
        scores[index] = float((whole - without).square().flatten(2).sum(-1).mean() / variance)
    return scores


def rank_blocks(scores: dict[int, float]) -> list[int]:
    """Return the blocks from the least score to the greatest."""
    return sorted(scores, key=lambda index: scores[index])
