"""Environments by name: `<family>/<member>`, of the families in `envs/families`, or `module:name`, the user's own."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np

from toddle.core.errors import nearest, problem
from toddle.core.family import Family
from toddle.core.memory import check_memory
from toddle.core.rendering import RenderVariation
from toddle.envs import families
from toddle.envs.base import BatchedEnv
from toddle.envs.costs import Costs, CostSettings
from toddle.envs.domain import Domain, DomainTable
from toddle.envs.limits import Limits, LimitsConfig
from toddle.envs.noise import Noise, NoiseConfig
from toddle.envs.own import is_own, own_family
from toddle.envs.stages import Stages, StagesConfig

__all__ = ["add_env", "families_by_name", "family_of", "known_envs", "make_env", "worlds_bytes"]

WORLDS_REMEDY = "take fewer worlds at once (worlds, num_envs, batch)"
ADDED: dict[str, Callable[..., BatchedEnv]] = {}


@functools.cache
def families_by_name() -> dict[str, Family]:
    """Return the families, by name."""
    names = [module.name for module in pkgutil.iter_modules(families.__path__)]
    found = [importlib.import_module(f"{families.__name__}.{name}").FAMILY for name in names]
    return {family.name: family for family in found}


def add_env(name: str, environment: Callable[..., BatchedEnv]) -> None:
    """Make `name` ("family/member") known: `make_env` calls `environment(num_envs, seed=..., **options)` for it."""
    if name in known_envs():
        raise problem("environment", "a name that is not taken", name)
    ADDED[name] = environment


def known_envs() -> list[str]:
    """Return every name `make_env` takes, sorted (some need an optional package)."""
    named = [f"{family.name}/{member}" for family in families_by_name().values() for member in family.members()]
    return sorted([*ADDED, *named])


def family_of(name: str) -> Family:
    """Return the family of an environment's name.  Raises InputError for an unknown name, naming the nearest one."""
    if name in ADDED:
        options = tuple(inspect.signature(ADDED[name]).parameters)
        return Family(name=name, what="added", members=lambda: [name], build=ADDED[name], options=options)
    if is_own(name):
        return own_family(name)
    prefix, _, member = name.partition("/")
    family = families_by_name().get(prefix)
    if family is None or not (member in family.members() or (family.open_ended and family.open_ended(member))):
        remedy = nearest(name, known_envs())
        if remedy.startswith("known"):  # nothing is near: a list of all would be long
            begin = ", ".join(f"{key}/" for key in families_by_name())
            remedy = f"names begin with {begin}; your own are module:name"
        raise problem("environment", "a known name", name, remedy)
    return family


def worlds_bytes(name: str, count: int) -> int:
    """Return the memory of so many worlds without pictures.  Raises InputError where they do not fit."""
    needed = count * family_of(name).world_bytes
    check_memory(needed, f"{count:,} worlds of {name}", WORLDS_REMEDY)
    return needed


def make_env(
    name: str,
    num_envs: int,
    *,
    seed: int = 0,
    threads: int = 1,
    noise: NoiseConfig | None = None,
    cost: str = "",
    costs: CostSettings | None = None,
    randomise: DomainTable | None = None,
    limits: LimitsConfig | None = None,
    stages: StagesConfig | None = None,
    **options: Any,
) -> BatchedEnv:
    """Build `num_envs` worlds of the environment `name`; `options` go to its class.  `noise` disturbs any environment,
    `randomise` lets it differ from episode to episode, `cost` (a sum of `envs.costs.COSTS`, `costs`: where they begin)
    counts costs in any that MuJoCo simulates, `limits` hold what actions ask for, `stages` are a plan above the policy.

    `threads` is for environments over the pool; Meta-World and LIBERO step their worlds one after the other.
    Raises InputError for an unknown name (with the nearest known one), for an option that the environment does not
    have, for more worlds than fit into memory, and when an optional package is missing (with the extra to install).
    """
    if num_envs < 1:
        raise problem("num_envs", "at least 1", num_envs)
    if name in ADDED:
        made = ADDED[name](num_envs, seed=seed, **_looking(family_of(name), name, randomise, options))
        made = _counted(_disturbed(_randomised(made, randomise, seed), noise, seed), cost, costs)
        return _staged(_limited(made, limits), stages)
    family, member = family_of(name), name if is_own(name) else name.partition("/")[2]
    needed = num_envs * (family.world_bytes + 3 * options.get("image_size", 0) ** 2 * len(options.get("cameras", ())))
    check_memory(needed, f"{num_envs:,} worlds of {name}", WORLDS_REMEDY)
    made = family.make(member, num_envs, seed=seed, threads=threads, **_looking(family, name, randomise, options))
    made = _counted(_disturbed(_randomised(made, randomise, seed), noise, seed), cost, costs)
    return _staged(_limited(made, limits), stages)


def _looking(family: Family, name: str, table: DomainTable | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the table's look.  Raises InputError where looks are not the environment's to vary, or
    vary by an option already."""
    if table is None or (look := table.drawn) == RenderVariation():
        return options
    family.check("variation", name, "a look", field="randomise.look")
    if options.get("variation") not in (None, RenderVariation()):
        raise problem("randomise.look", "none beside looks or a variation of their own", "a look")
    return options | {"variation": look}


def _randomised(env: BatchedEnv, table: DomainTable | None, seed: int) -> BatchedEnv:
    """Let an environment differ from episode to episode.  Raises InputError where its models cannot be changed."""
    if table is not None and table.physical:
        env.domain = Domain(table, env, seed)
        env.domain.begin(np.ones(env.num_envs, bool), None)
    return env


def _counted(env: BatchedEnv, cost: str, settings: CostSettings | None) -> BatchedEnv:
    """Let an environment count costs.  Raises InputError for unknown ones and where it cannot be looked into."""
    if cost:
        env.costs = Costs(env, cost, settings or CostSettings())
        env.costs.begin(np.ones(env.num_envs, bool))
    return env


def _limited(env: BatchedEnv, limits: LimitsConfig | None) -> BatchedEnv:
    """Hold what actions ask for within limits.  Raises InputError where actions are no motions of a tool."""
    if limits is not None and limits.any:
        env.limits = Limits(limits, env)
    return env


def _staged(env: BatchedEnv, stages: StagesConfig | None) -> BatchedEnv:
    """Give an environment a plan.  Raises InputError where tools cannot be moved, or a name is unknown."""
    if stages is not None:
        env.stages = Stages(stages, env)
        env.stages.begin(np.ones(env.num_envs, bool))
    return env


def _disturbed(env: BatchedEnv, noise: NoiseConfig | None, seed: int) -> BatchedEnv:
    """Give an environment its noise.  Raises InputError for noise on what has no range or is not there."""
    if noise is None or not noise.any:
        return env
    if noise.action and env.discrete is not None:
        raise problem("noise.action", "0 where actions are choices", noise.action)
    if noise.action and not np.isfinite([env.single_action_space.low, env.single_action_space.high]).all():
        raise problem("noise.action", "0 where actions have no range", noise.action)
    if noise.pictures and not env.cameras:
        raise problem("noise.pictures", "0 where there are no pictures", noise.pictures)
    space = env.single_action_space
    env.noise = Noise(noise, env.num_envs, space.low, space.high, seed)
    return env
