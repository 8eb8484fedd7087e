"""Guidance of PPO by a teacher's actions: Refined Policy Distillation (RPD; Juelg et al. 2025, arXiv 2503.05833).

    L = L_PPO + weight * mean |mu(s) - a_teacher(s)|^2

The teacher is asked once for every decision of a rollout; its actions travel with the minibatches as a column.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toddle.algorithms.parts import Auxiliary
from toddle.core.errors import problem
from toddle.core.protocols import Acting, Scorable
from toddle.core.types import Observation, Score
from toddle.experience.rollout import Minibatch, Rollout
from toddle.maths.objectives import mean_where

__all__ = ["TeacherGuidance"]

COLUMN = "teacher_action"


class TeacherGuidance(Auxiliary):
    """Mean squared distance of the policy's mean action to a teacher's, from the same observations."""

    def __init__(self, teacher: Acting, weight: float) -> None:
        """The teacher must decide by itself for every observation (it is shown no history)."""
        if teacher.sequential:
            raise problem("teacher", "a policy without a memory", f"a sequential one of kind '{teacher.kind}'")
        self.teacher, self.weight = teacher, weight

    @torch.no_grad()
    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Write the teacher's actions (T, B, H, A) into each rollout."""
        for rollout in rollouts:
            lead = rollout.chain.shape[:2]
            seen = {k: v.flatten(0, 1) for k, v in rollout.observation.items() if isinstance(v, Tensor)}
            if rollout.sentences:
                seen["instruction"] = rollout.sentences  # type: ignore[assignment]
            decision, _ = self.teacher.act(Observation(**seen), deterministic=True)  # type: ignore[typeddict-item]
            rollout.columns[COLUMN] = decision.action.unflatten(0, lead)
        return {}

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean squared distance.  Raises InputError where the policy has no mean action."""
        if score.mean is None:
            raise problem("policy", "one with a mean action", "one without")
        wanted = part.columns[COLUMN]
        if wanted.shape != score.mean.shape:
            raise problem("teacher", f"actions of shape {tuple(score.mean.shape[2:])}", str(tuple(wanted.shape[2:])))
        distance = mean_where((score.mean - wanted) ** 2, part.mask)
        return self.weight * distance, {"guidance/distance": distance.detach()}
