"""maniskill/<Task>: tasks of ManiSkill 3.0.1 in its own simulation, e.g. maniskill/PickCube-v1."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.maniskill_rules import SENTENCES

__all__ = ["FAMILY"]


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    import torch

    if num_envs > 1 and torch.cuda.is_available():
        from toddle.envs.maniskill_gpu import ManiskillGpuEnv

        return ManiskillGpuEnv(member, num_envs, **options)
    from toddle.envs.maniskill import ManiskillEnv  # its worlds are stepped one after the other: threads are not used

    return ManiskillEnv(member, num_envs, **options)


FAMILY = Family(
    name="maniskill",
    what="tasks of ManiSkill 3.0.1 in its own simulation, from state or from pictures",
    members=lambda: list(SENTENCES),
    build=_build,
    options=(
        "cameras",
        "image_size",
        "max_episode_steps",
        "horizon_scale",
        "terminate_on_success",
        "observation",
        "reward",
    ),
    evaluation={"terminate_on_success": True},
    finetuning={"reward": "success", "terminate_on_success": True},
    remedies=dict.fromkeys(("mani_skill", "sapien"), "pip install 'toddle[maniskill]'"),
    world_bytes=32 * 2**20,
)
