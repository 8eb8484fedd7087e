"""gymnasium/<task>: gymnasium's MuJoCo tasks over the pool, e.g. gymnasium/HalfCheetah-v5."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.gymnasium_rules import TASKS

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.gymnasium_tasks import GymnasiumEnv

    return GymnasiumEnv(member, num_envs, **options)


FAMILY = Family(
    name="gymnasium",
    what="gymnasium's MuJoCo tasks, from state",
    members=lambda: list(TASKS),
    build=_build,
    options=("native_actions", "max_episode_steps", "render"),
)
