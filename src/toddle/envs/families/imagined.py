"""imagined/<folder>: a learned model of an environment (`toddle worldmodel train`), e.g. imagined/runs/world_model."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.imagined import ImaginedEnv

    return ImaginedEnv(member, num_envs, **options)


FAMILY = Family(
    name="imagined",
    what="a learned model of an environment: imagined/<folder of toddle worldmodel train>",
    members=list,
    build=_build,
    options=("max_episode_steps", "terminate_on_success", "reward"),
    evaluation={"terminate_on_success": True},
    finetuning={"reward": "success", "terminate_on_success": True},
    modelled=True,
    world_bytes=2**16,
    open_ended=bool,  # a folder without a model is told by its reader
)
