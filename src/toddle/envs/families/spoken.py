"""spoken/<body>: a legged body walks as a sentence says, with pictures from its own camera, e.g. spoken/ant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toddle.envs.families.walk import FAMILY as WALK

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.goal.spoken import SpokenWalkingEnv

    return SpokenWalkingEnv(member, num_envs, **options)


FAMILY = replace(
    WALK,
    name="spoken",
    what="walking as a sentence says, with pictures from the body's own camera",
    build=_build,
    options=(
        *("control", "held_out", "randomisation", "pushes", "terrain", "episode_seconds"),
        *("render", "cameras", "image_size"),
    ),
    evaluation={"held_out": True},
)
