"""walk/<body>: goals of velocity, heading, height and recovery on a legged body, e.g. walk/ant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toddle.envs.bodies import BODIES
from toddle.envs.families.goal import FAMILY as GOAL

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.goal.walking import WalkingEnv

    return WalkingEnv(member, num_envs, **options)


FAMILY = replace(
    GOAL,
    name="walk",
    what="walking by the generic physics reward, from state",
    members=lambda: [name for name, body in BODIES.items() if body.feet],
    build=_build,
    options=(*(name for name in GOAL.options if name not in ("visited_fraction", "failure_weighted")), "terrain"),
)
"""Goal tracking's, but for what chooses among postures, and rough ground."""
