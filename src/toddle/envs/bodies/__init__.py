"""Robots as small descriptions.  `get_body(name)` finds one; `docs/add_a_body.md` shows how to add one."""

from __future__ import annotations

from toddle.core.errors import nearest, problem
from toddle.envs.bodies.body import Body
from toddle.envs.bodies.promises import PARTS_PER_BODY
from toddle.envs.bodies.robots import ANT, G1, GO1, HUMANOID, PANDA
from toddle.envs.bodies.sawyer import SAWYER

__all__ = ["BODIES", "get_body", "part_offset"]

BODIES: dict[str, Body] = {body.name: body for body in (SAWYER, PANDA, ANT, HUMANOID, GO1, G1)}
"""Every known body.  Add your own before an environment or a policy asks for it; the order gives its part ids."""


def get_body(name: str) -> Body:
    """Return the body called `name`.  Raises InputError naming the nearest known one."""
    if name not in BODIES:
        raise problem("body", "a known body", name, nearest(name, BODIES))
    return BODIES[name]


def part_offset(name: str) -> int:
    """Return the first part id of a body (core.goal.PART): ids are unique over all bodies of a run.

    A body that is not among BODIES gets the ids after all of theirs (one such body in a run).
    """
    names = list(BODIES)
    return (names.index(name) if name in names else len(names)) * PARTS_PER_BODY
