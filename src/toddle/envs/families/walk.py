"""walk/<body>: goals of velocity, heading, height and recovery on a legged body, e.g. walk/ant."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.bodies import BODIES

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.goal.walking import WalkingEnv

    return WalkingEnv(member, num_envs, **options)


FAMILY = Family(
    name="walk",
    what="walking by the generic physics reward, from state",
    members=lambda: [name for name, body in BODIES.items() if body.feet],
    build=_build,
    options=(
        "control",
        "held_out",
        "curriculum",
        "randomisation",
        "duration",
        "pushes",
        "recovery_fraction",
        "token_latency",
        "distractors",
        "goals_per_episode",
        "episode_seconds",
        "render",
    ),
    evaluation={"held_out": True, "pushes": None, "recovery_fraction": 0.0},
)
