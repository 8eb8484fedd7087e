"""gutter/push, gutter/flat: a puck on a table with and without gutters, for learning without resets."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.gutter import GutterEnv

    return GutterEnv(member, num_envs, **options)


FAMILY = Family(
    name="gutter",
    what="a puck that is pushed to a spot, and falls into gutters: for learning without resets, in microseconds",
    members=lambda: ["push", "flat"],
    build=_build,
    options=("max_episode_steps", "terminate_on_success"),
    evaluation={"terminate_on_success": True},
    world_bytes=2**12,
)
