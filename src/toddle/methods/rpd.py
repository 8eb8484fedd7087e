"""RPD: PPO guided by the actions of a stored policy (Juelg et al. 2025, arXiv 2503.05833)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from toddle.algorithms.guidance import TeacherGuidance
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative
from toddle.methods._actors import for_bodies
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods.ppo import PPOSettings
from toddle.policies.store import load_policy

__all__ = ["METHOD", "RPDSettings"]


@config
class RPDSettings(PPOSettings):
    """PPO with a squared distance to a teacher's action."""

    teacher: Path | None = None
    """Folder of the policy that guides."""
    guidance: NonNegative = 1.0
    """Weight of the squared distance to its action."""

    def build(self, start: Start) -> Run:
        """Build PPO, guided."""
        if self.teacher is None:
            raise problem("teacher", "a policy folder with method rpd", "none")
        teacher = for_bodies(load_policy(self.teacher, start.device), start.envs)
        guidance = TeacherGuidance(teacher, self.guidance)
        made = super().build(dataclasses.replace(start, parts={"auxiliaries": [guidance]}))
        if teacher.horizon != made.policy.horizon:
            raise problem("teacher", f"a policy that executes chunks of {made.policy.horizon}", teacher.horizon)
        return made


METHOD = Method(
    name="rpd",
    what="PPO guided by a stored policy's actions",
    paper="Juelg et al. 2025, arXiv 2503.05833",
    policies="gaussian, causal, tokens",
    presets=(Preset(name="any", source="RPD's weight 1; else as ppo for tasks", settings=RPDSettings()),),
)
