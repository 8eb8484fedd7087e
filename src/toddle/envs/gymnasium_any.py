"""Any gymnasium environment as a batch: N worlds of their own, stepped one after the other.

gymnasium's own vector environments step every world at every call.  Here a chunk of actions leaves worlds alone that
are over or not asked for, and single worlds are begun anew, so the worlds are kept apart instead.

An environment's inside cannot be saved in general.  What can be: every episode begins with a seed, and is therefore
a function of that seed and of the actions since.  The state keeps both, and loading it plays the episodes under way
again.  An environment that does not repeat itself is found out by its observations; it begins a new episode there.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from toddle.core.errors import EnvironmentFault, InputError, problem
from toddle.core.seeding import seed_sequence
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.gymnasium_spaces import ActionMap, ObservationMap, fitted

__all__ = ["AnyGymnasiumEnv", "body_name", "speaking_for"]

STEP_SECONDS = 0.05
"""Seconds of a control step where the environment says nothing of time."""
FACTS = {"success": ("success", "is_success"), "cost": ("cost",)}
"""What is passed on of an environment's own infos, and the names it may have there."""


@contextlib.contextmanager
def speaking_for(name: str, moment: str, *, what: str = "environment") -> Iterator[None]:
    """Turn whatever an environment of others raises into one line: which environment, when, and what it said."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        fault = EnvironmentFault.of(name, moment, error, what=what)
        raise (fault if moment.startswith("in ") else InputError(str(fault))) from error  # "in step": while it ran


def body_name(name: str) -> str:
    """Return the name of the body of an environment, which files and banks can bear: no version, a-z, 0-9 and _."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"-v\d+$", "", name).lower()).strip("_") or "body"


class AnyGymnasiumEnv(BatchedEnv):
    """N worlds of any gymnasium environment.  Observations: `gymnasium_spaces`; infos: `success`, `cost` if it has any.

    World i begins as the environment does after `reset(seed=seed + i)`; its later episodes have seeds drawn from that.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], gymnasium.Env[Any, Any]],
        num_envs: int,
        *,
        seed: int = 0,
        max_episode_steps: int | None = None,
        body: str | None = None,
    ) -> None:
        """Build the worlds by `make`, one a call.  Raises InputError, one line, where it cannot be taken as it is."""
        self.name, self.body, self.num_envs = name, body or body_name(name), num_envs
        self._worlds: list[gymnasium.Env[Any, Any]] = []
        with speaking_for(name, "while being made"):
            for _ in range(num_envs):
                self._worlds.append(make())
            if len({id(world) for world in self._worlds}) < num_envs:
                raise problem("environment", "a new one at every call", f"the same one twice from {name}")
            first = self._worlds[0]
            self._seen = ObservationMap(name, first.observation_space)
            self._act = ActionMap(name, first.action_space)
            self.dt = _seconds(first)
            limit = max_episode_steps or _limit(first)
        if limit is None:
            what = f"a limit for {name}, which has none of its own"
            raise problem("max_episode_steps", what, "none", "this option gives it one")
        self.max_episode_steps = int(limit)
        self.discrete, self.cameras = self._act.discrete, self._seen.cameras
        self.single_action_space, self.single_observation_space = self._act.space, self._seen.space
        self._allocate()
        self._proprio = np.zeros((num_envs, self._seen.width), np.float32)
        self._raw: list[Any] = [None] * num_envs  # as the worlds gave them; pictures are read when they are looked at
        self._seeds, self._episode = np.arange(seed, seed + num_envs), np.full(num_envs, -1)
        self._actions: list[list[Array]] = [[] for _ in range(num_envs)]
        self._facts: dict[str, Array] = {}
        self._reset_worlds(np.ones(num_envs, bool), None)

    # ---- episodes ------------------------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for world in np.flatnonzero(mask):
            if seeds is not None and (seed := seeds[world]) is not None:
                self._seeds[world], self._episode[world] = seed, -1
            self._episode[world] += 1
            self._begin_episode(int(world))

    def _begin_episode(self, world: int) -> None:
        seed, episode = int(self._seeds[world]), int(self._episode[world])
        if episode:
            seed = int(seed_sequence(seed, "episode", episode).generate_state(1)[0])
        with speaking_for(self.name, "in reset"):
            raw, _ = self._worlds[world].reset(seed=seed)
            self._note(world, raw, {})
        self._actions[world] = []
        for fact in self._facts.values():
            fact[world] = 0

    def _note(self, world: int, raw: Any, infos: dict[str, Any]) -> None:
        """Keep what a world shows and reports now."""
        self._proprio[world], self._raw[world] = self._seen.proprio(raw), raw
        for fact, names in FACTS.items():
            for value in (infos[name] for name in names if name in infos):
                kind = bool if fact == "success" else np.float64
                self._facts.setdefault(fact, np.zeros(self.num_envs, kind))[world] = value

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        rows = np.array(action, np.float32)
        for world in np.flatnonzero(active):
            reward[world], terminated[world], truncated[world] = self._step_world(int(world), rows[world])
        return reward, terminated, truncated | (self._length + 1 >= self.max_episode_steps)

    def _step_world(self, world: int, row: Array) -> tuple[float, bool, bool]:
        with speaking_for(self.name, "in step"):
            raw, reward, terminated, truncated, infos = self._worlds[world].step(self._act.native(row))
            self._note(world, raw, infos)
            self._actions[world].append(row)
            return float(reward), bool(terminated), bool(truncated)

    def _observe(self) -> Obs:
        if not self.cameras:
            return self._proprio.copy()
        images = {"images": np.stack([self._seen.images(raw) for raw in self._raw])} if self.rendering else {}
        return {"proprio": self._proprio.copy(), **images}

    def _infos(self) -> dict[str, Array]:
        return {name: fact.copy() for name, fact in self._facts.items()}

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return what plays the episodes under way again: seeds, and the actions since they began."""
        rows = [row for actions in self._actions for row in actions]
        return super().state_dict() | {
            "seeds": self._seeds.copy(),
            "episode": self._episode.copy(),
            "made": np.array([len(actions) for actions in self._actions]),
            "actions": np.array(rows, np.float32).reshape(len(rows), *self.single_action_space.shape),
            "proprio": self._proprio.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the episodes under way again.  A world that does not come out as it was begins a new episode."""
        super().load_state_dict(state)
        self._seeds[:], self._episode[:] = np.asarray(state["seeds"]), np.asarray(state["episode"])
        made = np.asarray(state["made"])
        actions = np.split(np.asarray(state["actions"], np.float32), np.cumsum(made)[:-1])
        for world in range(self.num_envs):
            self._begin_episode(world)
            for row in actions[world]:
                self._step_world(world, row)
        pairs = zip(self._proprio, np.asarray(state["proprio"]), strict=True)
        changed = np.array([not np.array_equal(now, then, equal_nan=True) for now, then in pairs])
        if changed.any():
            print(
                f"{self.name}: {changed.sum()} of {self.num_envs} worlds do not repeat themselves from their seeds; "
                "they begin new episodes, so this is not bitwise what an uninterrupted run would have done",
                file=sys.stderr,
            )
            self._begin(changed)

    # ---- pictures ------------------------------------------------------------------------------------------------
    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures, by the environment's own `render`."""
        pictures = []
        for world in worlds:
            with speaking_for(self.name, "in render"):
                picture = self._worlds[world].render()
            if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
                raise problem(f"pictures of {self.name}", "render_mode 'rgb_array'", self._worlds[world].render_mode)
            pictures.append(fitted(picture.astype(np.uint8), width, height))
        return np.stack(pictures)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the worlds."""
        for world in self._worlds:
            world.close()


def _limit(world: gymnasium.Env[Any, Any]) -> int | None:
    """Control steps of an episode, as its id or a wrapper says."""
    if world.spec is not None and world.spec.max_episode_steps is not None:
        return world.spec.max_episode_steps
    while isinstance(world, gymnasium.Wrapper):
        if isinstance(world, gymnasium.wrappers.TimeLimit):
            return world._max_episode_steps
        world = world.env
    return None


def _seconds(world: gymnasium.Env[Any, Any]) -> float:
    """Seconds of a control step: what the environment says of itself, else the rate of its pictures."""
    inner = world.unwrapped
    for value in (getattr(inner, "dt", None), getattr(inner, "tau", None)):
        if isinstance(value, int | float) and math.isfinite(value) and value > 0:
            return float(value)
    rate = (world.metadata or {}).get("render_fps")
    return 1.0 / float(rate) if isinstance(rate, int | float) and rate > 0 else STEP_SECONDS
