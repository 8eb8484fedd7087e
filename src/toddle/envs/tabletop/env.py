"""Six manipulation tasks of a Panda on a table, in the batched pool: replicas of ManiSkill's (VLAJS; Feng et al. 2025).

Source of starts, success rules, dense rewards and limits: ManiSkill 3.0.1 (arXiv 2410.00425), read from its package;
the physics is MuJoCo's, so its numbers are not ManiSkill's (`tasks` says what else differs).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from toddle.core.errors import nearest, problem
from toddle.core.rendering import RenderSettings, RenderVariation
from toddle.core.types import ActionParts, BodySpec
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.estimates import EstimateConfig, PoseEstimates
from toddle.envs.mujoco_pool import MujocoPool
from toddle.envs.pictures import Pictures
from toddle.envs.scene_renderer import FreeCamera, Renderers
from toddle.envs.streams import WorldStreams
from toddle.envs.tabletop.control import REACH, TURN, joint_motion, tool_jacobian
from toddle.envs.tabletop.reading import TOOL, arm_numbers, moment_of, names_of, poses, quaternions, thing_numbers, told
from toddle.envs.tabletop.scene import HOME, STIFFNESS, build_scene, reshape
from toddle.envs.tabletop.task import Draws, Moment, Task, check_options
from toddle.envs.tabletop.tasks import TASKS

__all__ = ["CAMERAS", "TASKS", "TabletopEnv"]

CAMERAS = ("close", "side")
VIEWS = {
    "close": FreeCamera(lookat=(0.0, 0.0, 0.05), distance=1.0, azimuth=180.0, elevation=-50.0),
    "side": FreeCamera(lookat=(0.0, 0.0, 0.1), distance=1.2, azimuth=135.0, elevation=-30.0),
}
FIELDS = ("qpos", "qvel", "xanchor", "xaxis", "site_xpos", "site_xmat", "sensordata")
BESIDE = ((-0.25, 0.26, 0.25, 0.36), (-0.25, -0.36, 0.25, -0.26))  # where objects stand that are no part of it
SUBSTEPS = 10
"""Physics steps of 5 ms in one control step."""


class TabletopEnv(BatchedEnv):
    """N worlds of one task.  Actions (N, 7) in [-1, 1]: motion of the tool (10 cm, 0.1 rad about the axes of the
    world), gripper (1 open, -1 shut), at 20 Hz.

    Observations: `proprio` (N, 27) float32, the arm's own: joints, joint speeds, the tool's place and two axes of its
    hand; with `observation` "state" what is held, where things and goals are, and their differences follow.  "auto"
    is "arm" where there are cameras and "state" where there are none.  With cameras `images`, drawn for worlds that
    moved since.  Infos: `success` (reached at some step), `success_now`, `tool_position`, `tool_orientation`.
    Rewards: "dense" is ManiSkill's, divided by what success pays; "simplified" is 1 where solved and else how near
    the last thing is to its place, alone (S4's third protocol as we read it); "sparse" is 1 where solved, else 0.
    """

    dt = 0.05
    action_parts = ActionParts(position=slice(0, 3), rotation=slice(3, 6), turn=TURN, reach=REACH)

    def __init__(
        self,
        task: str | Task,
        num_envs: int = 1,
        *,
        seed: int = 0,
        threads: int = 1,
        cameras: tuple[str, ...] = (),
        image_size: int = 96,
        max_episode_steps: int | None = None,
        horizon_scale: int = 1,
        terminate_on_success: bool = False,
        paraphrases: bool = False,
        observation: Literal["auto", "arm", "state"] = "auto",
        reward: Literal["dense", "simplified", "sparse", "success"] = "dense",
        privileged: bool = False,
        estimates: EstimateConfig | None = None,
        render: RenderSettings | None = None,
        variation: RenderVariation | None = None,
    ) -> None:
        """Build the worlds of a task, one of `TASKS` by name or one of your own.

        `horizon_scale` multiplies the task's limit, `privileged` adds the numbers of "state" as `critic`; reward
        "success" is another word for "sparse"; `estimates` stand in the observations of "state" for the true poses of
        things and of the box (not of goals, which are commanded), nowhere else.  Raises InputError on unknown names.
        """
        if isinstance(task, str):
            name = task.removeprefix("tabletop/")
            if name not in TASKS:
                raise problem("task", f"one of {', '.join(TASKS)}", name, nearest(name, TASKS))
            task = TASKS[name]
        check_options(observation, reward, num_envs, horizon_scale, max_episode_steps)
        self.task, self.name, self.num_envs = task, f"tabletop/{task.name}", num_envs
        self.cameras, self.image_size = tuple(cameras), image_size
        self.observation = ("arm" if self.cameras else "state") if observation == "auto" else observation
        self.body = "panda_tool" if self.observation == "arm" else f"panda_tool_{task.name.replace('-', '_')}"
        self.reward, self.privileged, self.terminate_on_success = reward, privileged, terminate_on_success
        self.paraphrases = paraphrases
        self.max_episode_steps = max_episode_steps or horizon_scale * self.task.limit
        self.published_steps = self.task.limit
        sized = self.task.holder is not None
        model = build_scene(self.task.things, marks=self.task.marks, holder=self.task.holder)
        self._pool = MujocoPool(
            model, num_envs, threads=threads, fields=FIELDS, per_world_models=sized, after_step=("mj_kinematics",)
        )
        marks = [name for name, *_ in self.task.marks] + ([self.task.holder[0]] if self.task.holder else [])
        self._mocap = {name: int(model.body(name).mocapid[0]) for name in marks}
        self._streams = WorldStreams(num_envs, seed)
        self._things = [thing.name for thing in self.task.things]
        self._detected = self._things + [name for name in marks if name != "goal"]
        self._estimates: PoseEstimates | None = None
        if estimates not in (None, EstimateConfig()):
            self._estimates = PoseEstimates(estimates, num_envs, len(self._detected), seed)
        view = {"free_cameras": VIEWS, "hidden_groups": (3,)}
        self._renderers = Renderers(lambda: model, render, variation, beside=BESIDE, **view)
        for camera in self.cameras:
            self._renderers.get(image_size, image_size).check_camera(camera)
        self._begin_empty(seed)
        self._reset_worlds(np.ones(num_envs, bool), None)
        self._spaces()

    def _begin_empty(self, seed: int) -> None:
        """Set up what is kept of each world."""
        self._success, self._success_now = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        self._memory = {"phase": np.zeros(self.num_envs, np.int64), "count": np.zeros(self.num_envs, np.int64)}
        self._sizes: dict[str, Array] = {}
        self._moment: Moment | None = None
        self._said = [self.task.sentences[0]] * self.num_envs
        self.instruction = self._said
        self._pictures = Pictures(self.num_envs, self.cameras, self.image_size, lambda *asked: self._picture(*asked))
        self._episode = np.full(self.num_envs, -1, dtype=np.int64)
        self._seed = np.arange(seed, seed + self.num_envs, dtype=np.int64)

    def _spaces(self) -> None:
        arm, whole = self._numbers(self._now())
        seen = arm if self.observation == "arm" else whole
        if self.cameras:
            self.seeing_spec = BodySpec(name="panda_tool", proprio=arm.shape[1], action=7, dt=self.dt)
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, seen[0].shape, np.float32)}
        if self.privileged:
            parts["critic"] = spaces.Box(-np.inf, np.inf, (whole.shape[1],), np.float32)
        if self.cameras:
            parts["images"] = self._pictures.space
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.named = names_of(self.task)
        self._allocate()

    @property
    def pool(self) -> MujocoPool:
        """The worlds' physics."""
        return self._pool

    # ---- episodes ------------------------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        worlds = np.flatnonzero(mask)
        for world in worlds:
            if seeds is not None and seeds[world] is not None:
                self._streams.reseed(world, seeds[world])
                if self._estimates is not None:
                    self._estimates.reseed(world, seeds[world])
                self._seed[world], self._episode[world] = seeds[world], -1
            self._episode[world] += 1
            self._renderers.begin_episode(int(world), int(self._seed[world]), int(self._episode[world]))
        draws = Draws(self._streams, worlds)
        start = self.task.begin(draws)
        said = draws.uniform()
        for name, values in start.sizes.items():
            self._sizes.setdefault(name, np.zeros((self.num_envs, *values.shape[1:])))[worlds] = values
        if start.sizes:
            self._reshape(worlds)
        qpos = np.zeros((len(worlds), self._pool.model.nq))
        qpos[:, :9] = HOME
        qpos[:, :7] += 0.02 * self._streams.normal(worlds, 7)
        for index, thing in enumerate(self.task.things):
            at = 9 + 7 * index
            qpos[:, at : at + 3] = start.at[thing.name]
            qpos[:, at + 3 : at + 7] = quaternions(start.rotation.get(thing.name))
        place, turn = self._pool.mocap_pos.copy(), self._pool.mocap_quat.copy()
        for name, index in self._mocap.items():
            place[worlds, index] = start.at[name]
            turn[worlds, index] = quaternions(start.rotation.get(name))
        self._pool.set_state(mask, qpos, np.zeros((len(worlds), self._pool.model.nv)), mocap_pos=place, mocap_quat=turn)
        self._pool.ctrl[worlds, :7], self._pool.ctrl[worlds, 7] = qpos[:, :7], HOME[7]
        for values in self._memory.values():
            values[worlds] = 0
        self._success[mask], self._success_now[mask], self._moment = False, False, None
        self._pictures.move(mask)
        if self._estimates is not None:
            self._estimates.begin(worlds, *poses(self._now(), self._detected, worlds))
        if self.paraphrases:
            for world, number in zip(worlds, said):
                self._said[world] = self.task.sentences[int(number * len(self.task.sentences))]

    def _reshape(self, worlds: Array) -> None:
        """Give the peg and the box of these worlds their sizes."""
        for world in worlds:
            length, radius = (float(self._sizes[name][world]) for name in ("length", "radius"))
            reshape(self._pool.models[world], length, radius, self._sizes["centre"][world])

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        pool = self._pool
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        motion = np.concatenate([REACH * action[:, :3], TURN * action[:, 3:6]], 1)
        pool.ctrl[active, :7] = (pool.state["qpos"][:, :7] + joint_motion(self._jacobian(), motion))[active]
        pool.ctrl[active, 7] = (0.015 + 0.025 * action[:, 6])[active]
        pool.step(SUBSTEPS, None if active.all() else active)
        self._moment = None
        if self._estimates is not None:
            worlds = np.flatnonzero(active)
            self._estimates.step(worlds, *poses(self._now(), self._detected, worlds))
        self._pictures.move(active)
        solved = self.task.solved(self._now())
        self._success_now = np.where(active, solved, self._success_now)
        self._success |= self._success_now & active
        ended = self._success & active if self.terminate_on_success else np.zeros(self.num_envs, bool)
        truncated = (self._length + 1 >= self.max_episode_steps) & ~ended
        return self._pay(solved), ended, truncated

    def pressing(self, actions: Array) -> Array:
        """Return the newtons (N,) with which the tool would press where it is, were it held there: the servos' torques
        t = K dq as a force at the tool, the least f with J^T f = t."""
        jacobian = self._jacobian()
        motion = np.concatenate([REACH * actions[:, :3], TURN * actions[:, 3:6]], 1)
        torque = STIFFNESS * joint_motion(jacobian, motion)  # a bound: each is held to FORCE by the servo
        wrench = np.einsum("nij,nj->ni", np.linalg.pinv(np.swapaxes(jacobian, 1, 2)), torque)
        found: Array = np.linalg.norm(wrench[:, :3], axis=1)
        return found

    def _jacobian(self) -> Array:
        state = self._pool.state
        return tool_jacobian(state["xanchor"][:, :7], state["xaxis"][:, :7], state["site_xpos"][:, TOOL])

    def _pay(self, solved: Array) -> Array:
        if self.reward in ("sparse", "success"):
            return solved.astype(np.float64)
        if self.reward == "simplified":
            return np.where(solved, 1.0, self.task.simplified(self._now()))
        return np.where(solved, 1.0, self.task.dense(self._now()) / self.task.best)

    def _now(self) -> Moment:
        """Return all worlds as they are."""
        if self._moment is None:
            self._moment = moment_of(self._pool, self._things, self._mocap, self._sizes)
        return self._moment

    def _infos(self) -> dict[str, Array]:
        now = self._now()
        return {
            "success": self._success.copy(),
            "success_now": self._success_now.copy(),
            "tool_position": now.tool.copy(),
            "tool_orientation": now.turn.as_quat(scalar_first=True),
        }

    # ---- what is seen --------------------------------------------------------------------------------------------
    def _numbers(self, now: Moment) -> tuple[Array, Array]:
        """Return the arm's numbers (N, 27), and with them those of everything else."""
        arm = arm_numbers(self._pool, now)
        return arm.astype(np.float32), np.concatenate([arm, thing_numbers(self.task, now)], 1).astype(np.float32)

    def _observe(self) -> Obs:
        arm, whole = self._numbers(told(self._now(), self._detected, self._estimates))
        observation = {"proprio": arm if self.observation == "arm" else whole}
        if self.privileged:
            observation["critic"] = whole if self._estimates is None else self._numbers(self._now())[1]
        if self.cameras and self.rendering:
            observation["images"] = self._pictures.images(self.pictured)
        return observation

    def glimpse(self, worlds: Array) -> dict[str, Array]:
        """Return the arm's numbers (M, 27) and `images` (M, cameras, 3, H, W) of these worlds, drawn now."""
        size = self.image_size
        pictures = [[self._picture(int(world), name, size, size) for name in self.cameras] for world in worlds]
        return {
            "proprio": self._numbers(self._now())[0][worlds],
            "images": np.asarray(pictures).transpose(0, 1, 4, 2, 3),
        }

    def _picture(self, world: int, camera: str, width: int, height: int) -> Array:
        pool = self._pool
        return self._renderers.render(world, pool.models[world], pool.datas[world], camera, width, height)

    def physics(self, world: int) -> tuple[Any, Any]:
        """Return the world's MjModel and MjData."""
        return self._pool.models[world], self._pool.datas[world]

    def own_models(self) -> None:
        """Give every world an MjModel of its own."""
        self._pool.separate()

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures of `camera` (one of CAMERAS; default "close")."""
        return np.stack([self._picture(world, camera or "close", width, height) for world in worlds])

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers and let the threads end."""
        self._renderers.close()
        self._pool.close()

    def expert_action(self) -> Array:
        """Return (N, 7) float32 actions of the task's scripted expert, which remembers what it was about to do."""
        return self.task.expert(self._now(), self._memory)

    # ---- disturbances and state ----------------------------------------------------------------------------------
    def push(self, mask: Array, generator: np.random.Generator, strength: float = 1.0) -> None:
        """Shove the tool sideways: 0.5 m/s x strength, which the servos brake."""
        angle = generator.uniform(0.0, 2.0 * np.pi, self.num_envs)
        none = np.zeros(self.num_envs)
        velocity = np.stack([np.cos(angle), np.sin(angle), none, none, none, none], 1)
        qvel = self._pool.state["qvel"].copy()
        qvel[:, :7] += 0.5 * strength * joint_motion(self._jacobian(), velocity)
        self._pool.write("qvel", mask, qvel)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bitwise resume needs."""
        own = {name: getattr(self, f"_{name}").copy() for name in ("success", "success_now", "seed", "episode")}
        return (
            super().state_dict()
            | own
            | {
                "pool": self._pool.state_dict(),
                "streams": self._streams.state_dict(),
                "memory": {name: values.copy() for name, values in self._memory.items()},
                "sizes": {name: values.copy() for name, values in self._sizes.items()},
                "instruction": list(self._said),
            }
            | ({"estimates": self._estimates.state_dict()} if self._estimates is not None else {})
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        super().load_state_dict(state)
        for name in ("success", "success_now", "seed", "episode"):
            getattr(self, f"_{name}")[:] = np.asarray(state[name])
        for name, values in self._sizes.items():
            values[:] = np.asarray(state["sizes"][name])
        if self._sizes:
            self._reshape(np.arange(self.num_envs))
        self._pool.load_state_dict(state["pool"])
        self._streams.load_state_dict(state["streams"])
        if self._estimates is not None:
            self._estimates.load_state_dict(state["estimates"])
        for name, values in self._memory.items():
            values[:] = np.asarray(state["memory"][name])
        for world in range(self.num_envs):
            self._renderers.begin_episode(world, int(self._seed[world]), int(self._episode[world]))
        self._said[:] = list(state["instruction"])
        self._moment = None
        self._pictures.move()
