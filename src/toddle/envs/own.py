"""Environments of the user's own: `my_package.my_env:make`, a function or class in a module of theirs.

What it may be: something that is called as make(num_envs, seed=..., **options) and returns a BatchedEnv; something that
is called without arguments and returns one gymnasium environment, of which as many are made as there are worlds; or a
`Body`, which is tracked goals with.  Modules are looked for in the current folder first, as `python -m` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

from toddle.core.errors import nearest, problem
from toddle.core.family import Family
from toddle.envs.base import BatchedEnv
from toddle.envs.bodies.body import Body
from toddle.envs.gymnasium_any import AnyGymnasiumEnv, speaking_for

__all__ = ["bodies_in", "is_own", "own_family"]

EXPECTED = "module:name, such as my_package.my_env:make"


def is_own(name: str) -> bool:
    """Whether a name is of this kind: a colon, and no family before it."""
    module, colon, _ = name.partition(":")
    return bool(colon) and ("/" not in module or module.endswith(".py"))


def _load(name: str) -> Any:
    """Return what `module:name` is.  Raises InputError, one line, where there is no such thing."""
    module, _, attribute = name.partition(":")
    if module.endswith(".py"):
        remedy = f"did you mean '{module[:-3].replace('/', '.')}:{attribute or 'make'}'?"
        raise problem("environment", EXPECTED, name, remedy)
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise problem("environment", EXPECTED, name)
    if os.getcwd() not in sys.path:  # the console script has its own folder there instead
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    with speaking_for(name, "while being imported"):
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # it was found, and what it imports is not there
            remedy = f"looked for in {os.getcwd()} and among the installed packages"
            raise problem("environment", f"a module before ':{attribute}'", module, remedy) from None
    for part in attribute.split("."):
        names = [key for key in dir(found) if not key.startswith("_")]
        if part not in dir(found):
            raise problem("environment", f"a name in {found.__name__}", part, nearest(part, names)[:300])
        found = getattr(found, part)
    if not callable(found) and not isinstance(found, Body):
        what = "something to call that makes an environment, or a Body"
        raise problem("environment", what, f"{name}, a {type(found).__name__}")
    return found


def _parameters(made_by: Any) -> tuple[list[str], bool]:
    """Names of what it can be called with, and whether it takes any others too."""
    try:
        found = inspect.signature(made_by).parameters.values()
    except ValueError:  # built in
        return [], False
    named = [item.name for item in found if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    return named, any(item.kind == item.VAR_KEYWORD for item in found)


def _worlds(made_by: Callable[..., Any], options: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]]:
    """What makes one world, a gymnasium environment, which is drawn as an array where it can be."""
    takes, _ = _parameters(made_by)
    given = {key: value for key, value in options.items() if key in takes}
    if "render_mode" in takes and "rgb_array" in (getattr(made_by, "metadata", None) or {}).get("render_modes", ()):
        given["render_mode"] = "rgb_array"

    def make() -> gymnasium.Env[Any, Any]:
        world = made_by(**given)
        if not isinstance(world, gymnasium.Env):
            what = "a gymnasium environment of one world, or, called with num_envs, a BatchedEnv"
            raise problem("environment", what, type(world).__name__, "what was called must return it")
        return world

    return make


def own_family(name: str) -> Family:
    """Return what is known of the environment `module:name`, whose module is imported.  Raises InputError."""
    made_by = _load(name)
    if isinstance(made_by, Body):
        from toddle.envs.families.goal import FAMILY
        from toddle.envs.goal.tracking import GoalTrackingEnv

        def build(member: str, num_envs: int, **options: Any) -> BatchedEnv:
            return _named(GoalTrackingEnv(made_by, num_envs, **options), name, num_envs)

        options, evaluation = FAMILY.options, FAMILY.evaluation
        return Family(
            name=name, what="your body", members=lambda: [name], build=build, options=options, evaluation=evaluation
        )
    takes, any_other = _parameters(made_by)
    batched = "num_envs" in takes or (isinstance(made_by, type) and issubclass(made_by, BatchedEnv))

    def build_any(member: str, num_envs: int, *, seed: int = 0, threads: int = 1, **options: Any) -> BatchedEnv:
        if not batched:
            worlds = _worlds(made_by, options)
            return AnyGymnasiumEnv(
                name, worlds, num_envs, seed=seed, max_episode_steps=options.get("max_episode_steps")
            )
        more = {"seed": seed} if "seed" in takes or any_other else {}
        more |= {"threads": threads} if "threads" in takes else {}
        with speaking_for(name, "while being made"):
            made = made_by(num_envs=num_envs, **more, **options)
        return _named(made, name, num_envs)

    taken = [key for key in takes if key not in ("num_envs", "seed", "threads", "render_mode")]
    extra = [] if batched or "max_episode_steps" in taken else ["max_episode_steps"]
    return Family(name=name, what="your own", members=lambda: [name], build=build_any, options=(*taken, *extra))


def _named(env: Any, name: str, num_envs: int) -> BatchedEnv:
    """Return a batched environment under the name that it was asked for by."""
    if not isinstance(env, BatchedEnv):
        what = "a BatchedEnv, as what takes num_envs returns"
        raise problem("environment", what, type(env).__name__, f"from {name}")
    if env.num_envs != num_envs:
        raise problem("environment", f"{num_envs} worlds", env.num_envs, f"from {name}")
    env.name = name
    return env


def bodies_in(file: Path) -> list[Body]:
    """Return the bodies that a Python file defines, in their order; the file is run.  Raises InputError for none."""
    if file.suffix != ".py" or not file.is_file():
        raise problem("body", "a Python file that defines a Body", str(file), "docs/add_a_body.md shows one")
    sys.path.insert(0, str(file.parent.resolve()))  # for what lies beside it
    spec = importlib.util.spec_from_file_location(f"toddle_body_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with speaking_for(str(file), "while being run", what="body"):
        spec.loader.exec_module(module)
    found = {id(value): value for value in vars(module).values() if isinstance(value, Body)}
    if not found:
        raise problem("body", "a Body in the file", f"none in {file}", "docs/add_a_body.md shows one")
    return list(found.values())
