"""fork/point: a point mass and two ways round a wall, for policies with several modes."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.fork import ForkEnv

    return ForkEnv(num_envs, **options)


FAMILY = Family(
    name="fork",
    what="a point mass and two ways round a wall",
    members=lambda: ["point"],
    build=_build,
    options=("max_episode_steps", "speed"),
)
