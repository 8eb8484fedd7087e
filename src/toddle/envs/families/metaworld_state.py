"""metaworld-state/<task>: Meta-World from state; reward 1 for success, which ends the episode, as 200 steps do."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.families.metaworld import OPTIONS, REMEDIES, WORLD_BYTES
from toddle.envs.metaworld_sentences import SENTENCES

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.metaworld import MetaWorldEnv

    given: dict[str, Any] = {"observation": "state", "reward": "success", "terminate_on_success": True}
    return MetaWorldEnv(member, num_envs, **given | {"max_episode_steps": 200} | options)


FAMILY = Family(
    name="metaworld-state",
    what="Meta-World's 50 tasks from state, reward 1 for success",
    members=lambda: list(SENTENCES),
    build=_build,
    options=(*OPTIONS, "reward"),
    evaluation={"terminate_on_success": True},
    remedies=REMEDIES,
    world_bytes=WORLD_BYTES,
)
