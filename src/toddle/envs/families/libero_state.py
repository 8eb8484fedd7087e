"""libero-state/libero_object/<index>: LIBERO-Object from state; success gives reward 1 and ends the episode."""

from __future__ import annotations

from typing import Any

from toddle.core.family import Family
from toddle.envs.families.libero import FAMILY as LIBERO
from toddle.envs.families.libero import SUITES

__all__ = ["FAMILY"]

SUITE = "libero_object"
"""The suite whose tasks follow from the places of the objects that they name, and that has an expert."""


def _build(member: str, num_envs: int, **options: Any) -> Any:
    given: dict[str, Any] = {"observation": "state", "terminate_on_success": True}
    return LIBERO.build(member, num_envs, **given | options)


FAMILY = Family(
    name="libero-state",
    what="LIBERO-Object's ten tasks from state, reward 1 for success",
    members=lambda: [f"{SUITE}/{index}" for index in range(SUITES[SUITE])],
    build=_build,
    options=tuple(option for option in LIBERO.options if option != "observation"),
    evaluation={"terminate_on_success": True},
    remedies=LIBERO.remedies,
    world_bytes=LIBERO.world_bytes,
)
