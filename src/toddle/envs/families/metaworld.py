"""metaworld/<task>: Meta-World's 50 tasks with pictures and a sentence, e.g. metaworld/reach-v3."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.metaworld_sentences import SENTENCES

__all__ = ["FAMILY", "OPTIONS", "REMEDIES", "WORLD_BYTES"]

OPTIONS = (
    "cameras",
    "image_size",
    "max_episode_steps",
    "terminate_on_success",
    "paraphrases",
    "push_target",
    "render",
    "variation",
)
"""What all families over Meta-World take."""
REMEDIES = {"metaworld": "pip install 'toddle[sim]'"}
WORLD_BYTES = 34 * 2**20  # every world has a model of its own


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.metaworld import MetaWorldEnv  # steps its worlds one after the other: threads are not used

    return MetaWorldEnv(member, num_envs, **options)


FAMILY = Family(
    name="metaworld",
    what="Meta-World's 50 tasks, with pictures and a sentence",
    members=lambda: list(SENTENCES),
    build=_build,
    options=(*OPTIONS, "observation", "reward", "privileged"),
    evaluation={"terminate_on_success": True},
    finetuning={"reward": "success", "terminate_on_success": True, "max_episode_steps": 200, "privileged": True},
    remedies=REMEDIES,
    world_bytes=WORLD_BYTES,
)
