"""Goal tracking: one environment and one reward for every body (GCTR, `maths.goal_reward`).

A world is given a goal of one to six items (posture, key points, velocity, hold), a new one every 1.2 to 2.4 s; it is
pushed now and then.  Everything a policy sees is dimensionless.  Observations: proprio; goal and goal_mask
(`core.goal`); critic (privileged: exact errors of every part, contact, time, randomisation).  Floating bases end an
episode when they fall, unless it is one of the recovery episodes that begin fallen; a goal under way then counts as
missed.  Infos, besides the base's: goal_done, goal_success (all items within 0.1 when the goal ended), goal_error
(mean of its items), goal_start_error, goal_start_met (all items within 0.1 when it began), goal_items, goal_family,
success (of the last goal that ended), level (of the curriculum) and reward/<part>.  The first seven hold for the last
goal that ended within the call of `step_chunk`.
"""

from __future__ import annotations

from typing import Any, Literal

import mujoco
import numpy as np
from gymnasium import spaces

from toddle.core.goal import GOAL_FEATURES
from toddle.core.rendering import RenderSettings
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.bodies import Body, get_body, part_offset
from toddle.envs.bodies.body import MocapAction
from toddle.envs.bodies.promises import prepare
from toddle.envs.goal.curriculum import Curriculum, CurriculumConfig, Failures
from toddle.envs.goal.options import check_options
from toddle.envs.goal.parts import AFTER_STEP, BodyReader, BodyState
from toddle.envs.goal.pushes import Pushes
from toddle.envs.goal.randomisation import Randomisation, RandomisationConfig
from toddle.envs.goal.sampling import Goals, GoalSampler, VisitedStates
from toddle.envs.goal.starts import Starts
from toddle.envs.goal.table import feasible_table, setpoint_home
from toddle.envs.goal.tokens import TokenWriter
from toddle.envs.pools import MUJOCO, PhysicsConfig, make_pool
from toddle.envs.scene_renderer import FreeCamera, Renderers
from toddle.envs.streams import WorldStreams
from toddle.maths.goal_reward import goal_success, item_error, joint_limit_excess, reward_parts, total_reward

__all__ = ["GoalTrackingEnv"]

TOLERANCE = 0.1
"""Error within which an item counts as reached, in every report."""
FALLEN = 0.35
"""Height of the root, in L, below which a floating base has fallen."""
TABLE = 512
"""Feasible configurations of a body: even rows for training, odd rows for held-out goals."""


class GoalTrackingEnv(BatchedEnv):
    """N worlds of one body."""

    family = "goal"
    heading = False  # whether the body's heading is a part, which goals may ask for
    ground: Any = None  # `goal.terrain.Terrain` on which it stands, where that is no plane

    def __init__(
        self,
        body: str | Body,
        num_envs: int,
        *,
        seed: int = 0,
        threads: int = 1,
        control: Literal["own", "shuffled", "none"] = "own",
        held_out: bool = False,
        curriculum: CurriculumConfig | None = CurriculumConfig(),  # noqa: B008  # frozen
        randomisation: RandomisationConfig | None = None,
        visited_fraction: float = 0.5,
        failure_weighted: bool = True,
        duration: tuple[float, float] = (1.2, 2.4),
        pushes: tuple[float, float] | None = (4.0, 6.0),
        recovery_fraction: float = 0.2,
        token_latency: int = 1,
        distractors: int = 0,
        goals_per_episode: int | None = None,
        episode_seconds: float | None = None,
        render: RenderSettings | None = None,
        physics: PhysicsConfig = MUJOCO,
    ) -> None:
        """Build the worlds.  Times in seconds; raises InputError on a wrong option.

        Args: control: "shuffled" shows each world another world's goal, "none" shows none (negative controls; the
            reward stays that of its own goal); held_out: goals of configurations that training never asks for, of 1
            to 6 items, nothing adaptive; visited_fraction: share of targets from visited states; pushes: interval of
            pushes, None for none; recovery_fraction: episodes that begin fallen; token_latency: goal tokens are
            refreshed every k steps, k uniform in 1..token_latency; distractors: most tokens of other worlds added, of
            weight 0; goals_per_episode: truncate after so many goals.
        """
        body = get_body(body) if isinstance(body, str) else body
        check_options(num_envs, control, duration, token_latency, distractors)
        self.description, self.body, self.name = body, body.name, f"{self.family}/{body.name}"
        self.num_envs, self.control, self.goals_per_episode = num_envs, control, goals_per_episode
        model = prepare(body if self.ground is None else self.ground.standing)
        self.dt = float(model.opt.timestep * body.frame_skip)
        self.max_episode_steps = round((episode_seconds or body.episode_seconds) / self.dt)
        self.reader = BodyReader(body, model, heading=self.heading, ground=self.ground)
        read, differ = {"fields": self.reader.fields(), "after_step": AFTER_STEP}, randomisation is not None
        self.pool = make_pool(physics, model, num_envs, threads=threads, per_world_models=differ, **read)
        self._state = self.reader.read(self.pool, np.zeros((num_envs, 3)))
        self.streams, self.goals = WorldStreams(num_envs, seed), Goals(num_envs)
        self.curriculum = Curriculum(None if held_out else curriculum, body.promote)
        self.failures = Failures() if failure_weighted and not held_out else None
        self.visited = VisitedStates(4096, self.reader.parts)
        self.randomisation = Randomisation(randomisation, self.pool, self._state.proprio.shape[1])
        self.pushes = Pushes(self.reader, self.pool, None if pushes is None else self._in_steps(pushes))
        self._sources(held_out, visited_fraction, duration, recovery_fraction)
        others, step_time = np.roll(np.arange(num_envs), -1) if control == "shuffled" else None, self.dt / body.time
        self.tokens = TokenWriter(
            self.reader, self.goals, part_offset(body.name), step_time, token_latency, distractors, others
        )
        self._arrays(model.nu, 4 if isinstance(body.action, MocapAction) else model.nu)
        self._renderers = self._cameras(render)
        self._reset_worlds(np.ones(num_envs, bool), None)
        self._spaces()

    def _in_steps(self, seconds: tuple[float, float]) -> tuple[int, int]:
        return max(1, round(seconds[0] / self.dt)), max(1, round(seconds[1] / self.dt))

    def _sources(
        self, held_out: bool, visited_fraction: float, duration: tuple[float, float], recovery_fraction: float
    ) -> None:
        """Where goals and first states come from."""
        body, table = self.description, feasible_table(self.reader, TABLE, 0)
        rows = table.quantities[1::2] if held_out else table.quantities[0::2]
        seen = 0.0 if held_out else visited_fraction
        self.sampler = GoalSampler(
            self.reader, rows, np.array(body.mix), seen, self._in_steps(duration), self.dt / body.time
        )
        self.starts = Starts(self.reader, table, recovery_fraction)

    def _arrays(self, nu: int, actions: int) -> None:
        n = self.num_envs
        self._origin = np.zeros((n, 2 + self.heading))
        self._action, self._waiting = np.zeros((n, actions)), np.zeros((n, actions))
        self._recovering, self._contact = np.zeros(n, bool), np.zeros(n, bool)
        self._steps, self._goals_ended = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._report = {
            "goal_done": np.zeros(n, bool),
            "goal_success": np.zeros(n, bool),
            "goal_error": np.zeros(n),
            "goal_start_error": np.zeros(n),
            "goal_start_met": np.zeros(n, bool),
            "success": np.zeros(n, bool),
            "goal_items": np.zeros(n, dtype=np.int64),
            "goal_family": np.zeros(n, dtype=np.int64),
        }
        self._parts: dict[str, Array] = {}
        ranges = self.reader.model.actuator_ctrlrange
        self._home, self._low, self._high = setpoint_home(self.reader), ranges[:, 0].copy(), ranges[:, 1].copy()

    def _spaces(self) -> None:
        shapes = {key: value.shape[1:] for key, value in self._observe().items()}
        parts: dict[str, spaces.Space[Any]] = {
            key: spaces.Box(-np.inf, np.inf, shapes[key], np.float32) for key in ("proprio", "goal", "critic")
        }
        parts["goal_mask"] = spaces.Box(0, 1, shapes["goal_mask"], np.bool_)
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-1.0, 1.0, (self._action.shape[1],), np.float32)
        self._allocate()

    # ---- episodes ------------------------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        worlds = np.flatnonzero(mask)
        if seeds is not None and None not in seeds and mask.all():  # a fresh start: what was learnt is forgotten
            self.curriculum.forget()
            self.visited.count = 0
            if self.failures is not None:
                self.failures.forget()
        for world in worlds:
            if seeds is not None and (seed := seeds[world]) is not None:
                self.streams.reseed(int(world), seed)
        self.randomisation.draw(worlds, self.streams)
        self._recovering[worlds] = self.starts.begin(self.pool, mask, self.streams)
        self._origin[worlds, :2] = self.pool.state["qpos"][worlds, :2]
        self._state = self._read(None)
        for array in (self._action, self._waiting, self._steps, self._goals_ended, self._contact):
            array[worlds] = 0
        for array in self._report.values():
            array[worlds] = 0
        self._new_goals(worlds)
        self.pushes.schedule(worlds, self.streams)
        self.randomisation.refresh(worlds, self.streams)
        self.tokens.begin(worlds, self._state.quantities, self.curriculum.tolerance, self.streams)

    def _new_goals(self, worlds: Array) -> None:
        if not len(worlds):
            return
        if self.reader.floating:
            self._origin[worlds, :2] = self.pool.state["qpos"][worlds, :2]
            self._state.quantities[worlds, self.reader.slots[3][2]] = 0.0  # the station is measured from here now
        self.sampler.sample(
            self.goals,
            worlds,
            self._state.quantities[worlds],
            self.streams,
            self.visited,
            self.failures,
            self.curriculum.items,
        )

    def push(self, mask: Array, generator: np.random.Generator, strength: float = 1.0) -> None:
        """Push the worlds of `mask` (N,): up to 0.5 m/s for a body of L = 1 m, in a random direction."""
        worlds = np.flatnonzero(mask)
        if len(worlds):
            self.pushes.kick(worlds, generator.random((len(worlds), self.reader.model.nv)), strength)

    # ---- a control step ------------------------------------------------------------------------------------------
    def _apply(self, action: Array, active: Array) -> None:
        """Turn clipped actions (N, A) into the pool's inputs for the active worlds."""
        pool, kind = self.pool, self.description.action
        late = self.randomisation.delayed[:, None]
        applied = np.where(late, self._waiting, action)
        self._waiting[active] = action[active]
        if isinstance(kind, MocapAction):
            place = np.clip(pool.mocap_pos[:, 0] + kind.scale * applied[:, :3], kind.low, kind.high)
            pool.mocap_pos[active, 0] = place[active]
            pool.ctrl[active] = (applied[:, 3:] * (1.0, -1.0))[active]
        else:
            reach = np.where(applied > 0.0, self._high - self._home, self._home - self._low)
            wanted = self._home + reach * applied
            pool.ctrl[active] += kind.gain * (wanted - pool.ctrl)[active]

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self.pushes.tick(active, self.streams)
        self._apply(action, active)
        self.pool.step(self.description.frame_skip, active)
        state = self._state = self._read(active)
        error = item_error(self.goals.difference(state.quantities))
        self._parts = reward_parts(
            error=error,
            weight=self.goals.weight,
            action=action,
            previous_action=self._action,
            torque=state.torque,
            excess=joint_limit_excess(state.joints),
            contact=state.contact,
            up_z=state.up_z,
            tolerance=self.curriculum.tolerance,
        )
        self._parts |= self._reward_besides(state, active)
        self._action[active], self._contact[active] = action[active], state.contact[active]
        self._steps += active
        fallen = np.zeros(self.num_envs, bool)
        if state.up_z is not None and state.height is not None:
            fallen = ((state.height < FALLEN) | (state.up_z < 0.0)) & ~self._recovering & active
        self.goals.left -= active
        self._end_goals(np.flatnonzero(active & ((self.goals.left <= 0) | fallen)), error, fallen)
        self.tokens.tick(active, state.quantities, self.curriculum.tolerance, self.streams)
        if self.randomisation.noise is not None:
            self.randomisation.refresh(np.flatnonzero(active), self.streams)
        truncated = self._steps >= self.max_episode_steps
        if self.goals_per_episode is not None:
            truncated = truncated | (self._goals_ended >= self.goals_per_episode)
        return total_reward(self._parts), fallen, truncated

    def _read(self, moved: Array | None) -> BodyState:
        """Return the worlds' state; `moved` (N,): those that have just made a step, None after resets."""
        return self.reader.read(self.pool, self._origin)

    def _reward_besides(self, state: BodyState, active: Array) -> dict[str, Array]:
        """Return parts of the reward, (N,) each, that a family of goals adds; the `active` worlds (N,) have moved."""
        return {}

    def _end_goals(self, worlds: Array, error: Array, fallen: Array) -> None:
        """Report the goals that end now, learn from them what to ask next, and give new ones."""
        if not len(worlds):
            return
        goals, present = self.goals, self.goals.present[worlds]
        standing = ~fallen[worlds]
        success = goal_success(error[worlds], present, TOLERANCE) & standing
        report, items = self._report, present.sum(axis=1)
        report["goal_done"][worlds], report["goal_success"][worlds], report["success"][worlds] = True, success, success
        report["goal_error"][worlds] = (error[worlds] * present).sum(axis=1) / items
        report["goal_start_error"][worlds] = goals.start_error[worlds]
        report["goal_start_met"][worlds] = goals.met[worlds]
        report["goal_items"][worlds], report["goal_family"][worlds] = items, goals.family[worlds]
        self._goals_ended[worlds] += 1
        passed = goal_success(error[worlds], present, self.curriculum.tolerance) & standing
        self.curriculum.update(passed)
        if self.failures is not None:
            self.failures.update(goals.family[worlds], goals.bin[worlds], passed)
        upright = worlds if self._state.up_z is None else worlds[self._state.up_z[worlds] > 0.7]
        self.visited.add(self._state.quantities[upright])
        self._new_goals(worlds)

    def step_chunk(self, actions: Array, **options: Any) -> tuple[Obs, Array, Array, Array, dict[str, Any]]:
        """Make the chunk's control steps; `goal_*` infos are of a goal that ended within it."""
        self._report["goal_done"][:] = False
        return super().step_chunk(actions, **options)

    def _infos(self) -> dict[str, Array]:
        facts = {key: value.copy() for key, value in self._report.items()}
        facts |= {f"reward/{key}": value for key, value in self._parts.items()}
        return facts | {"level": np.full(self.num_envs, self.curriculum.level)}

    # ---- what is seen --------------------------------------------------------------------------------------------
    def _observe(self) -> Obs:
        state = self._state
        noise = self.randomisation.noise
        if self.control == "none":
            goal = np.zeros((self.num_envs, self.tokens.columns, GOAL_FEATURES), dtype=np.float32)
            goal_mask = np.zeros(goal.shape[:2], dtype=bool)
        else:
            goal, goal_mask = self.tokens.read(state.quantities, self.curriculum.tolerance)
        facts = (self._contact, self._steps / self.max_episode_steps, self.randomisation.factors)
        return {
            "proprio": state.proprio.copy() if noise is None else state.proprio + noise,
            "goal": goal,
            "goal_mask": goal_mask,
            "critic": self.tokens.privileged(state, *facts, self.curriculum.tolerance),
        }

    def _cameras(self, render: RenderSettings | None) -> Renderers:
        body = self.description
        view = FreeCamera(lookat=body.centre, distance=4.0 * body.length, azimuth=140.0, elevation=-25.0)
        return Renderers(lambda: self.pool.model, render, free_cameras={"follow": view})

    def physics(self, world: int) -> tuple[Any, Any]:
        """Return the world's MjModel and MjData."""
        return self.pool.inside(world)

    def own_models(self) -> None:
        """Give every world an MjModel of its own."""
        self.pool.separate()

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures from a camera that follows the body."""
        pictures, renderer = [], self._renderers.get(width, height)
        for world in worlds:
            model, data = self.pool.pictured(world)
            mujoco.mj_kinematics(model, data)
            if self.reader.floating and camera is None:
                renderer.aim("follow", data.qpos[:3])
            pictures.append(renderer.render(model, data, camera or "follow"))
        return np.stack(pictures)

    def close_extras(self, **kwargs: Any) -> None:
        """Let threads and renderers go."""
        self.pool.close()
        self._renderers.close()

    _saved: tuple[str, ...] = ("_origin", "_action", "_waiting", "_recovering", "_contact", "_steps", "_goals_ended")

    _holders = ("randomisation", "pool", "streams", "goals", "visited", "curriculum", "tokens", "pushes")

    def state_dict(self) -> dict[str, Any]:
        """Return physics, goals, random streams, curriculum: all a bitwise resume needs."""
        state = super().state_dict() | {name: getattr(self, name).state_dict() for name in self._holders}
        state |= {name: getattr(self, name).copy() for name in self._saved}
        state["report"] = {key: value.copy() for key, value in self._report.items()}
        if self.failures is not None:
            state["failures"] = self.failures.success.copy()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for name in self._holders:
            getattr(self, name).load_state_dict(state[name])
        for name in self._saved:
            getattr(self, name)[...] = np.asarray(state[name])
        for key, value in self._report.items():
            value[...] = np.asarray(state["report"][key])
        if self.failures is not None:
            self.failures.success[...] = np.asarray(state["failures"])
        self._state = self._read(None)
