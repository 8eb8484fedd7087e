"""dots/reach, dots/one: the smallest task for a vision-language-action model, dots in a picture and a sentence."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.dots import DotsEnv

    return DotsEnv(member, num_envs, **options)


FAMILY = Family(
    name="dots",
    what="a point that goes to the dot the sentence names, with pictures, in microseconds",
    members=lambda: ["reach", "one"],
    build=_build,
    options=("cameras", "image_size", "max_episode_steps", "terminate_on_success", "reward"),
    finetuning={"reward": "success", "terminate_on_success": True},
)
