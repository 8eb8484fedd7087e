"""goal/<body>: the generic physics reward on a body, e.g. goal/sawyer."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.bodies import BODIES

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.goal.tracking import GoalTrackingEnv

    return GoalTrackingEnv(member, num_envs, **options)


FAMILY = Family(
    name="goal",
    what="goal tracking by the generic physics reward, from state",
    members=lambda: list(BODIES),
    build=_build,
    options=(
        "control",
        "held_out",
        "curriculum",
        "randomisation",
        "visited_fraction",
        "failure_weighted",
        "duration",
        "pushes",
        "recovery_fraction",
        "token_latency",
        "distractors",
        "goals_per_episode",
        "episode_seconds",
        "render",
        "physics",
    ),
    evaluation={"held_out": True, "pushes": None, "recovery_fraction": 0.0},
)
