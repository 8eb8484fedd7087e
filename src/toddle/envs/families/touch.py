"""touch/<task>: Meta-World's scene with the goal item "the hand at the object", for the RL policy's own approaches."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.families.metaworld import OPTIONS, REMEDIES, WORLD_BYTES
from toddle.envs.metaworld_sentences import SENTENCES

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.metaworld_touch import MetaWorldTouchEnv

    return MetaWorldTouchEnv(member, num_envs, **options)


FAMILY = Family(
    name="touch",
    what="Meta-World's scenes, the goal being the hand at the object",
    members=lambda: list(SENTENCES),
    build=_build,
    options=(*OPTIONS, "own_sentence"),
    evaluation={"terminate_on_success": True},
    remedies=REMEDIES,
    world_bytes=WORLD_BYTES,
)
