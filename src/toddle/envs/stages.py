"""A plan above a policy: for each stage the tool is brought near its place, and from there the policy acts.

Plan-Seq-Learn (Dalal et al. 2024, arXiv 2405.01534): a plan says what is next and where, a planner moves there, and one
policy learns what has to be learned there.  Here the plan is a file, written by hand, and the planner moves the tool in
straight lines in the environment's own physics.  Its control steps are no decisions of the policy and no part of an
episode's length; they are counted (`planned`).  What the policy is shown after a move is what there is after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toddle.core.config import config
from toddle.core.errors import nearest, problem
from toddle.core.numbers import Count, Finite, NonNegative, Positive

if TYPE_CHECKING:
    from toddle.envs.base import Array, BatchedEnv

__all__ = ["Stages", "StagesConfig"]


@config
class UntilConfig:
    """When a stage is done; all that is given must hold."""

    raised: Positive | None = None
    """The object is by so many metres higher than when the stage began."""
    near: str = ""
    """The object is near this (goal, say) ..."""
    within: Positive = 0.03
    """... by so many metres."""

    def __post_init__(self) -> None:
        if self.raised is None and not self.near:
            raise problem("until", "raised or near", "neither")


@config
class StageConfig:
    """Where the tool begins a stage, and when the next one comes."""

    to: str
    """What it is brought to: object, goal, or whatever else the environment names."""
    offset: tuple[Finite, Finite, Finite] = (0.0, 0.0, 0.0)
    """Metres from there, along the axes of the world."""
    above: NonNegative = 0.1
    """It comes from so many metres above; 0: straight."""
    grip: Literal["open", "shut"] = "open"
    """Fingers while it moves."""
    until: UntilConfig | None = None
    """When the stage is done; none, for the last one."""


@config
class StagesConfig:
    """A plan, as a file says it."""

    stages: tuple[StageConfig, ...]
    """One after another; each but the last says `until` when."""
    steps: Count = 60
    """Control steps that a move may take; then the policy acts from wherever the tool is."""
    tolerance: Positive = 0.01
    """Metres that count as there."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise problem("stages", "at least one", "none")
        for index, stage in enumerate(self.stages):
            if (stage.until is None) != (index == len(self.stages) - 1):
                raise problem(f"stages.{index}.until", "one in every stage but the last", stage.until)


class Stages:
    """The plan of an environment's worlds."""

    def __init__(self, settings: StagesConfig, env: BatchedEnv) -> None:
        """Raises InputError where actions are no motions of a tool, or a name is not the environment's."""
        if env.action_parts is None or "tool" not in env.named:
            raise problem("stages", "an environment whose actions are motions of a tool (tabletop/...)", env.name)
        self.settings, self.env, self.parts = settings, env, env.action_parts
        untils = [stage.until for stage in settings.stages if stage.until]
        for name in (*(stage.to for stage in settings.stages), *(until.near for until in untils if until.near)):
            if name not in env.named:
                raise problem("stages", f"names that {env.name} has", name, nearest(name, sorted(env.named)))
        if untils and "object" not in env.named:
            raise problem("stages", "an environment with an object, for until", env.name)
        self.stage, self.planned = (np.zeros(env.num_envs, np.int64) for _ in range(2))
        self.height: Array = np.zeros(env.num_envs)

    def begin(self, mask: Array) -> None:
        """Begin the plan in the worlds of `mask` (N,), whose episodes begin."""
        self.stage[mask], self.planned[mask] = 0, 0
        self._travel(mask)

    def advance(self, mask: Array) -> Array:
        """Go on to the next stage in those of the worlds of `mask` (N,) whose stage is done; return which (N,)."""
        switched = mask & (self.stage < len(self.settings.stages) - 1)
        if not switched.any():
            return switched
        places = self._places()
        for index, stage in enumerate(self.settings.stages):
            if stage.until is not None and (own := switched & (self.stage == index)).any():
                switched &= ~own | self._done(stage.until, places)
        self.stage[switched] += 1
        if switched.any():
            self._travel(switched)
        return switched

    def _done(self, until: UntilConfig, places: dict[str, Array]) -> Array:
        done = np.ones(self.env.num_envs, bool)
        if until.raised is not None:
            done &= places["object"][:, 2] >= self.height + until.raised
        if until.near:
            done &= np.linalg.norm(places["object"] - places[until.near], axis=1) <= until.within
        return done

    def _places(self) -> dict[str, Array]:
        """Return where everything named is in the worlds now, (N, 3) metres each; nothing is drawn for it."""
        env, rendering = self.env, self.env.rendering
        env.rendering = False
        try:
            seen = env._observe()
        finally:
            env.rendering = rendering
        state = seen["critic" if "critic" in seen else "proprio"] if isinstance(seen, dict) else seen
        state = np.asarray(state, np.float64)
        found = {name: state[:, list(at.at)] * at.scale for name, at in env.named.items() if len(at.at) == 3}
        return {name: value + (env.named[name].offset or 0.0) for name, value in found.items()}

    def _travel(self, mask: Array) -> None:
        """Move the tools of `mask` (N,) to where their stages begin: over it, then down."""
        env, settings = self.env, self.settings
        low, grip = np.zeros((env.num_envs, 3)), np.zeros(env.num_envs)
        above = np.tile([0.0, 0.0, 1.0], (env.num_envs, 1))
        over, going = np.ones(env.num_envs, bool), mask.copy()
        places = self._places()
        for index, stage in enumerate(settings.stages):
            own = mask & (self.stage == index)
            low[own] = places[stage.to][own] + stage.offset
            grip[own] = 1.0 if stage.grip == "open" else -1.0
            above[own] *= stage.above
            over[own] = stage.above > 0.0
        if "object" in places:
            self.height[mask] = places["object"][mask, 2]
        for _ in range(settings.steps):
            away = low + np.where(over[:, None], above, 0.0) - places["tool"]
            near = np.linalg.norm(away, axis=1) <= settings.tolerance
            going &= ~(near & ~over) & ~(over & (np.linalg.norm(low - places["tool"], axis=1) <= settings.tolerance))
            over &= ~near
            away = low + np.where(over[:, None], above, 0.0) - places["tool"]
            if not going.any():
                break
            action = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
            action[:, -1] = grip
            action[:, self.parts.position] = np.clip(1.5 * away / self.parts.reach, -1.0, 1.0)
            env._step_worlds(action, going)
            self.planned += going
            places = self._places()

    def state_dict(self) -> dict[str, Any]:
        """Return where the plans stand."""
        return {"stage": self.stage.copy(), "planned": self.planned.copy(), "height": self.height.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name in ("stage", "planned", "height"):
            getattr(self, name)[:] = np.asarray(state[name])
