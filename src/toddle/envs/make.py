"""Environments by name.  Each family is imported only when one of its names is asked for.

gymnasium/<task>         gymnasium's MuJoCo tasks over the pool, e.g. gymnasium/HalfCheetah-v5
goal/<body>              the generic physics reward on a body, e.g. goal/sawyer
metaworld/<task>         Meta-World, e.g. metaworld/reach-v3
touch/<task>             Meta-World's scene with the goal item "the hand at the object"
libero/<suite>/<index>   LIBERO, e.g. libero/libero_object/0
fork/point               a point mass and two ways round a wall
metaworld-state/<task>   Meta-World from state (no camera), reward 1 for success, which ends the episode
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from toddle.core.errors import InputError, nearest, problem
from toddle.envs.base import BatchedEnv

__all__ = ["add_env", "known_envs", "make_env"]

LIBERO_SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Tasks of each LIBERO suite."""
_LIBERO = "pip install 'toddle[libero]' && pip install --no-deps hf-libero robosuite bddl"
REMEDIES = {
    "metaworld": "pip install 'toddle[sim]'",
    "scipy": "pip install 'toddle[sim]'",
    "libero": _LIBERO,
    "robosuite": _LIBERO,
    "bddl": _LIBERO,
    "cv2": _LIBERO,
    "easydict": _LIBERO,
    "future": _LIBERO,
}
"""What installs an optional package."""


def _build(environment: Callable[..., BatchedEnv], *arguments: Any, **options: Any) -> BatchedEnv:
    """Call the class after checking the names of the options."""
    classes = environment.__mro__ if isinstance(environment, type) else (environment,)
    for owner_class in classes:  # a class that takes **options hands them to the one it stands on
        parameters = inspect.signature(owner_class).parameters
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    names = list(parameters)[len(arguments) :]
    for key in options:
        if key not in names:
            owner = getattr(environment, "__name__", "the environment")
            raise problem("environment option", f"an option of {owner}", key, nearest(key, names))
    return environment(*arguments, **options)


def _gymnasium(task: str, num_envs: int, **options: Any) -> BatchedEnv:
    from toddle.envs.gymnasium_tasks import GymnasiumEnv

    return _build(GymnasiumEnv, task, num_envs, **options)


def _goal(body: str, num_envs: int, **options: Any) -> BatchedEnv:
    from toddle.envs.goal.tracking import GoalTrackingEnv

    return _build(GoalTrackingEnv, body, num_envs, **options)


def _metaworld(task: str, num_envs: int, *, threads: int, **options: Any) -> BatchedEnv:
    from toddle.envs.metaworld import MetaWorldEnv

    return _build(MetaWorldEnv, task, num_envs, **options)


def _touch(task: str, num_envs: int, *, threads: int, **options: Any) -> BatchedEnv:
    from toddle.envs.metaworld_touch import MetaWorldTouchEnv

    return _build(MetaWorldTouchEnv, task, num_envs, **options)


def _metaworld_state(task: str, num_envs: int, **options: Any) -> BatchedEnv:
    given: dict[str, Any] = {"observation": "state", "reward": "success", "terminate_on_success": True}
    return _metaworld(task, num_envs, **given | {"max_episode_steps": 200} | options)


def _libero(task: str, num_envs: int, *, threads: int, **options: Any) -> BatchedEnv:
    from toddle.envs.libero import LiberoEnv

    suite, _, index = task.partition("/")
    return _build(LiberoEnv, suite, int(index), num_envs, **options)


def _fork(body: str, num_envs: int, **options: Any) -> BatchedEnv:
    from toddle.envs.fork import ForkEnv

    return _build(ForkEnv, num_envs, **options)


FAMILIES: dict[str, Callable[..., BatchedEnv]] = {
    "gymnasium": _gymnasium,
    "goal": _goal,
    "metaworld": _metaworld,
    "touch": _touch,
    "libero": _libero,
    "fork": _fork,
    "metaworld-state": _metaworld_state,
}


def _members(family: str) -> list[str]:
    """Names within a family; needs none of the optional packages."""
    if family == "gymnasium":
        from toddle.envs.gymnasium_rules import TASKS

        return list(TASKS)
    if family == "goal":
        from toddle.envs.bodies import BODIES

        return list(BODIES)
    if family in ("metaworld", "metaworld-state", "touch"):
        from toddle.envs.metaworld_sentences import SENTENCES

        return list(SENTENCES)
    if family == "fork":
        return ["point"]
    return [f"{suite}/{index}" for suite, count in LIBERO_SUITES.items() for index in range(count)]


ADDED: dict[str, Callable[..., BatchedEnv]] = {}


def add_env(name: str, environment: Callable[..., BatchedEnv]) -> None:
    """Make `name` ("family/member") known: `make_env` calls `environment(num_envs, seed=..., **options)` for it."""
    if name in known_envs():
        raise problem("environment", "a name that is not taken", name)
    ADDED[name] = environment


def known_envs() -> list[str]:
    """Return every name `make_env` takes, sorted (some need an optional package)."""
    return sorted([*ADDED, *(f"{family}/{member}" for family in FAMILIES for member in _members(family))])


def make_env(name: str, num_envs: int, *, seed: int = 0, threads: int = 1, **options: Any) -> BatchedEnv:
    """Build `num_envs` worlds of the environment `name`; `options` go to its class.

    `threads` is for environments over the pool; Meta-World and LIBERO step their worlds one after the other.
    Raises InputError for an unknown name (with the nearest known one), for an option that the environment does not
    have, and when an optional package is missing (with the extra to install).
    """
    if name in ADDED:
        return _build(ADDED[name], num_envs, seed=seed, **options)
    family, _, member = name.partition("/")
    if family not in FAMILIES or member not in _members(family):
        remedy = nearest(name, known_envs())
        if remedy.startswith("known"):  # nothing is near: a list of all would be long
            remedy = "names begin with " + ", ".join(f"{key}/" for key in FAMILIES)
        raise problem("environment", "a known name", name, remedy)
    try:
        return FAMILIES[family](member, num_envs, seed=seed, threads=threads, **options)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in REMEDIES:
            raise
        raise InputError(f"environment: '{name}' needs the package {package}; {REMEDIES[package]}") from None
