"""Numbers that several learners take of all their worlds, so that an update is that of one learner with all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.core.team import Team
from toddle.core.types import Observation
from toddle.experience.rollout import Minibatch, Rollout
from toddle.maths.advantages import standardise

__all__ = ["everyones", "explained_variance", "pooled", "standardised"]

UNCOUNTED = ("images", "context", "context_mask")
"""Large parts of observations, of which no normaliser keeps moments."""


def everyones(team: Team, observation: Observation, real: Tensor | None) -> Observation:
    """Return the observations (T, B, ...) of all learners' worlds, side by side, as normalisers take them in; of whole
    episodes, where `real` (T, B) says which rows were played, these rows alone (N, ...)."""
    if team.size == 1 and real is None:
        return observation
    found: Any = {
        key: team.gather(value, 1)
        for key, value in observation.items()
        if isinstance(value, Tensor) and key not in UNCOUNTED
    }
    if real is not None:
        played = team.gather(real, 1)
        found = {key: value[played] for key, value in found.items()}
    if "instruction" in observation:
        found["instruction"] = observation["instruction"]
    return found


def standardised(team: Team, part: Minibatch, valued: Tensor | None) -> Tensor:
    """Return a minibatch's advantages by the mean and deviation over all learners' parts of it (`standardise`)."""
    x = part.advantage
    if team.size == 1:
        return standardise(x, valued)
    inside = torch.ones_like(x) if valued is None else valued.to(x.dtype).expand_as(x)
    inside = inside.double() * float(part.share > 0)
    count, total = team.add(torch.stack([inside.sum(), (x * inside).sum()])).unbind()
    mean = total / count.clamp(min=1)
    square = team.add(((x - mean) ** 2 * inside).sum())
    deviation = (square / (count - 1)).sqrt() + 1e-8 if count > 1 else torch.ones_like(square)
    held = (x - mean) / deviation
    return (held if valued is None else torch.where(valued, held, 0.0)).to(x.dtype)


def explained_variance(team: Team, rollout: Rollout) -> float:
    """1 - Var(target - value) / Var(target) over real decisions: 1 is a perfect critic, 0 a constant one."""
    target, value = team.gather(rollout.target, 1), team.gather(rollout.value, 1)
    if rollout.valued is not None:
        real = team.gather(rollout.valued, 1)
        target, value = target[real], value[real]
    variance = float(target.var()) if target.numel() > 1 else 0.0
    return 1.0 - float((target - value).var()) / variance if variance > 0 else 0.0


def pooled(team: Team, facts: dict[str, float]) -> dict[str, float]:
    """Return an estimator's facts over all learners: counts of decisions are summed, the rest is averaged."""
    if team.size == 1:
        return facts
    found = team.objects(facts)
    return {
        name: sum(each[name] for each in found) / (1 if name.endswith("/decisions") else team.size) for name in facts
    }
