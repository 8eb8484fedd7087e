"""Walking: goals of velocity, heading, height and recovery, paid by the generic physics reward.

`walk/<body>` is goal tracking (`envs.goal.tracking`) whose goals a legged body meets by walking, 3 to 6 seconds each in
episodes of 20.  Kinds of goals: a velocity (forward, sideways, turning); a heading to turn to on the way; a height to
walk at; to stand; to get up, where the body lies on the floor.  The reward is the same, plus what feet earn at landing
(`maths.walking.air_time`), and velocities are running means over half a stride.  Speeds and pushes grow with the
curriculum.  A velocity counts by its mean over the second half of the goal.  Infos, besides goal tracking's: goal_kind
(place in KINDS), goal_command and goal_velocity (N, 3: m/s, m/s, rad/s) of the last goal that ended, walked (N,):
metres of this episode along what was commanded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.core.errors import problem
from toddle.envs.base import Array, Obs
from toddle.envs.bodies import Body, get_body
from toddle.envs.bodies.promises import PARTS_PER_BODY, foot_body
from toddle.envs.goal.curriculum import CurriculumConfig
from toddle.envs.goal.parts import HOLD, VELOCITY, BodyState
from toddle.envs.goal.terrain import Terrain
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.maths.walking import KINDS, air_time, commands, gait_velocity, made_good, mean_velocity

__all__ = ["WalkingEnv"]

SHARES = (0.6, 0.15, 0.1, 0.15)
"""How often each kind is asked for, but recovery, which is what lies on the floor is asked for."""
WEIGHTS = np.array(
    [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.5, 0.0, 0.25, 0.25], [0.2, 0.0, 0.4, 0.4]]
)
"""Weights of the items (velocity, heading, height, upright) of each kind."""
LOWEST = 0.75
"""Smallest height to walk at, of the body's own."""
TURNED = 0.5 * np.pi
"""Farthest a heading is from the present one."""
GENTLE = 0.2
"""Share of a push's strength at which the curriculum begins."""
SLOWLY = CurriculumConfig(start_tolerance=0.1, goals_per_level=1000)
"""The tolerance does not widen: within 0.2 who stands still would follow slow commands."""


class WalkingEnv(GoalTrackingEnv):
    """N worlds of one legged body."""

    family = "walk"
    heading = True

    def __init__(
        self,
        body: str | Body,
        num_envs: int,
        *,
        curriculum: CurriculumConfig | None = SLOWLY,
        duration: tuple[float, float] = (3.0, 6.0),
        episode_seconds: float = 20.0,
        recovery_fraction: float = 0.1,
        terrain: float = 0.0,
        **options: Any,
    ) -> None:
        """Build the worlds; arguments are those of goal tracking, and terrain: how rough the ground is, in L (0: a
        plane).  Raises InputError for a body without feet, or whose floor cannot be changed."""
        body = get_body(body) if isinstance(body, str) else body
        if body.root != "floating" or not body.feet:
            raise problem("body", "a floating base with feet (Body.feet)", body.name)
        if terrain:
            self.ground = Terrain(body, terrain, held_out=bool(options.get("held_out")))
        super().__init__(
            body,
            num_envs,
            curriculum=curriculum,
            duration=duration,
            episode_seconds=episode_seconds,
            recovery_fraction=recovery_fraction,
            **options,
        )

    def _sources(self, *given: Any) -> None:
        super()._sources(*given)
        reader, model = self.reader, self.reader.model
        if reader.parts > PARTS_PER_BODY:
            raise problem(f"body {self.body}: parts", f"at most {PARTS_PER_BODY} with the heading", reader.parts)
        height, upright, _, heading = reader.slots[3]
        self._items = np.array([reader.slots[2][0], heading, height, upright])
        self._feet = np.array([foot_body(model, name) for name in self.description.feet])
        self._step_time = self.dt / self.description.time

    def _arrays(self, nu: int, actions: int) -> None:
        super()._arrays(nu, actions)
        n = self.num_envs
        self._kind, self._half = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._sum, self._count = np.zeros((n, 3)), np.zeros(n, dtype=np.int64)
        self._air, self._touching = np.zeros((n, len(self._feet))), np.zeros((n, len(self._feet)), bool)
        self._walked, self._gait, self._velocity = np.zeros(n), np.zeros((n, 3)), np.zeros((n, 3))
        self._report |= {
            "goal_kind": np.zeros(n, dtype=np.int64),
            "goal_command": np.zeros((n, 3)),
            "goal_velocity": np.zeros((n, 3)),
        }

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for array in (self._air, self._touching, self._walked, self._gait):
            array[mask] = 0
        super()._reset_worlds(mask, seeds)

    # ---- goals ---------------------------------------------------------------------------------------------------
    def _new_goals(self, worlds: Array) -> None:
        if not len(worlds):
            return
        goals = self.goals
        draw = self.streams.uniform(worlds, 9)
        kind = self._kind[worlds] = self._kinds(worlds, draw[:, 0])
        away = np.where(kind == KINDS.index("heading"), TURNED * (2.0 * draw[:, 1] - 1.0), 0.0)
        self._aim(worlds, away)
        command = self._commands(worlds, kind, draw[:, 4:])
        low = kind == KINDS.index("height")
        items = len(self._items)
        weight = WEIGHTS[kind]
        goals.part[worlds, :items], goals.present[worlds, :items] = self._items * (weight > 0), weight > 0
        goals.weight[worlds, :items] = weight
        target = np.zeros((len(worlds), items, goals.target.shape[2]))
        target[:, 0, :3], target[:, 1, 0] = command, 1.0
        target[:, 2, 0] = np.where(low, 1.0 - (1.0 - LOWEST) * draw[:, 2], 1.0)
        goals.target[worlds, :items] = target * (weight > 0)[..., None]
        goals.family[worlds] = np.where(kind < KINDS.index("stand"), VELOCITY, HOLD)
        shortest, longest = self.sampler.duration
        steps = shortest + (draw[:, 3] * (longest - shortest + 1)).astype(np.int64)
        goals.left[worlds], self._half[worlds] = steps, steps // 2
        self._sum[worlds], self._count[worlds] = 0.0, 0

    def _kinds(self, worlds: Array, uniform: Array) -> Array:
        """Return which kind of goal each of the worlds (indices) is given; uniform (n,) decides."""
        state = self._state
        assert state.up_z is not None and state.height is not None
        lying = (state.up_z[worlds] < 0.7) | (state.height[worlds] < 0.5)
        lying |= self._recovering[worlds] & (self._steps[worlds] == 0)
        drawn = np.minimum(np.searchsorted(np.cumsum(SHARES), uniform, side="right"), len(SHARES) - 1)
        return np.where(lying, KINDS.index("recovery"), drawn)

    def _commands(self, worlds: Array, kind: Array, uniform: Array) -> Array:
        """Return the velocities (n, 3) that goals of a kind ask of the worlds (indices); uniform (n, 5) decides."""
        found = commands(uniform, self.curriculum.level)
        found[kind == KINDS.index("heading"), 1:] = 0.0
        found[kind >= KINDS.index("stand")] = 0.0
        return found

    def _aim(self, worlds: Array, away: Array) -> None:
        """Measure station and heading of the worlds from here, and from the heading that is `away` (n,) radians."""
        quantities, (_, _, station, heading) = self._state.quantities, self.reader.slots[3]
        cos, sin = quantities[worlds, heading, :2].T
        self._origin[worlds, :2] = self.pool.state["qpos"][worlds, :2]
        self._origin[worlds, 2] += np.arctan2(sin, cos) + away
        quantities[worlds, station] = 0.0
        quantities[worlds, heading, :2] = np.stack([np.cos(away), -np.sin(away)], axis=1)

    def _end_goals(self, worlds: Array, error: Array, fallen: Array) -> None:
        if not len(worlds):
            return
        goals, unit = self.goals, self._unit
        now = self._state.quantities[worlds, self._items[0], :3]
        velocity = mean_velocity(self._sum[worlds], self._count[worlds], now)
        error = error.copy()
        error[worlds, 0] = np.linalg.norm(goals.target[worlds, 0, :3] - velocity, axis=1)  # every kind has a velocity
        report = self._report
        report["goal_kind"][worlds] = self._kind[worlds]
        report["goal_command"][worlds] = goals.target[worlds, 0, :3] * unit
        report["goal_velocity"][worlds] = velocity * unit
        super()._end_goals(worlds, error, fallen)

    # ---- a control step ------------------------------------------------------------------------------------------
    @property
    def _unit(self) -> Array:
        """The units of a velocity: m/s, m/s, rad/s."""
        body = self.description
        return np.array([body.speed, body.speed, 1.0 / body.time])

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self.pushes.strength = GENTLE + (1.0 - GENTLE) * self.curriculum.level
        return super()._step_worlds(action, active)

    def _read(self, moved: Array | None) -> BodyState:
        state = super()._read(moved)
        slot = state.quantities[:, self._items[0], :3]  # a view
        self._velocity = slot.copy()
        if moved is not None:
            self._gait[moved] = gait_velocity(self._gait, self._velocity, self._step_time)[moved]
        slot[:] = self._gait
        return state

    def _reward_besides(self, state: BodyState, active: Array) -> dict[str, Array]:
        velocity, command = self._velocity, self.goals.target[:, 0, :3]
        counted = active & (self.goals.left <= self._half)
        self._sum[counted] += velocity[counted]
        self._count += counted
        self._walked += active * made_good(velocity, command) * self.description.speed * self.dt
        touching = np.asarray((np.abs(self.pool.state["cfrc_ext"][:, self._feet]) > 1e-6).any(axis=2))
        air, paid = air_time(self._air, touching, self._step_time)
        self._air[active], self._touching[active] = air[active], touching[active]
        return {"air_time": paid * command.any(axis=1)}

    def _infos(self) -> dict[str, Array]:
        return super()._infos() | {"walked": self._walked.copy()}

    def _observe(self) -> Obs:
        seen = super()._observe()
        feet = [seen["critic"], self._touching, np.minimum(self._air, 3.0)]
        seen["critic"] = np.concatenate(feet, axis=1).astype(np.float32)
        return seen

    _saved = (*GoalTrackingEnv._saved, "_kind", "_half", "_sum", "_count", "_air", "_touching", "_walked", "_gait")
