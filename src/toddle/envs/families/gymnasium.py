"""gymnasium/<id>: every id that is registered with gymnasium, e.g. gymnasium/HalfCheetah-v5, gymnasium/CartPole-v1.

gymnasium's MuJoCo tasks (v5) run over the pool, bit for bit and without Python per world; every other id runs as N
worlds of its own.  `gymnasium/<module>:<id>` imports the module first, which registers ids of other packages.
"""

from __future__ import annotations

import importlib
from typing import Any

from toddle.core.errors import problem
from toddle.core.family import Family
from toddle.envs.gymnasium_rules import TASKS

__all__ = ["FAMILY"]


def _registered() -> list[str]:
    import gymnasium

    return [*TASKS, *(name for name in gymnasium.registry if name not in TASKS)]


def _by_module(member: str) -> bool:
    """Whether `<module>:<id>` exists.  Raises InputError where the module cannot be imported."""
    module, colon, name = member.partition(":")
    if not colon:
        return False
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise problem("environment", f"a module that can be imported before ':{name}'", module, str(error)) from None
    return name in _registered()


def _build(member: str, num_envs: int, **options: Any) -> Any:
    if member in TASKS:
        from toddle.envs.gymnasium_tasks import GymnasiumEnv

        return GymnasiumEnv(member, num_envs, **options)
    import gymnasium

    from toddle.envs.gymnasium_any import AnyGymnasiumEnv, body_name

    options.pop("threads", None)  # its worlds are stepped one after the other
    for option in FAMILY.only:
        options.pop(option, None)
    limit = options.get("max_episode_steps")

    def make() -> Any:
        world = gymnasium.make(member, max_episode_steps=limit, disable_env_checker=True)
        if "rgb_array" not in (world.metadata or {}).get("render_modes", ()):
            return world
        world.close()
        return gymnasium.make(member, max_episode_steps=limit, disable_env_checker=True, render_mode="rgb_array")

    name = f"gymnasium/{member}"
    return AnyGymnasiumEnv(name, make, num_envs, body=body_name(member.rpartition(":")[2]), **options)


FAMILY = Family(
    name="gymnasium",
    what="every id registered with gymnasium; its MuJoCo tasks from state, fast",
    members=_registered,
    build=_build,
    options=("native_actions", "max_episode_steps", "render", "physics"),
    only={"native_actions": TASKS, "render": TASKS, "physics": TASKS},
    open_ended=_by_module,
)
