"""Meta-World's 50 tasks for a Sawyer arm, with camera pictures, sentences and scripted experts.

Source: metaworld 3.1.1 (Farama); imported in this file only.  Physics, rewards, success and experts are the package's
own.  Actions are its own too: [dx, dy, dz of the hand's target, gripper] in [-1, 1], 80 Hz.

What differs from the bare package: an episode depends on its world's seed and number alone (goal and object positions
come from `core.seeding`, MuJoCo's data is reset first, the reset runs twice with one drawn vector, so that nothing of
the episode before is left, rendered goals included); `success` holds once it was reached; time limits truncate.
What can be seen of a task's goal: `docs/add_a_task.md`.
"""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache
from typing import Any, Literal

import mujoco
import numpy as np
from gymnasium import spaces
from metaworld.env_dict import ENV_CLS_MAP
from metaworld.policies import ENV_POLICY_MAP

from toddle.core.errors import nearest, problem
from toddle.core.rendering import RenderSettings, RenderVariation
from toddle.core.seeding import numpy_generator
from toddle.core.types import ActionParts, Named
from toddle.envs.attributes import numeric_attributes, restore_attributes
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.bodies.sawyer import CENTRE, LENGTH, SawyerIndex, sawyer_proprio
from toddle.envs.metaworld_sentences import sentence
from toddle.envs.pictures import Pictures
from toddle.envs.scene_renderer import FreeCamera, Renderers

__all__ = ["CAMERAS", "TASKS", "MetaWorldEnv"]

TASKS = tuple(sorted(ENV_CLS_MAP))
"""The names of the 50 tasks."""

CLOSE = FreeCamera(lookat=(0.0, 0.7, 0.1), distance=1.1, azimuth=157.0, elevation=-40.0)
"""A view of the workspace from beside the arm, ours: goals of 1 to 2 cm radius cover pixels at 96 x 96."""
BESIDE = ((-0.5, 0.45, -0.32, 0.85), (0.32, 0.45, 0.5, 0.85))
"""Where objects stand that are no part of the task: left and right of what the hand reaches."""
CAMERAS = ("close", "corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
"""Cameras that Meta-World mounts upside down; their pictures are turned."""

STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
PUSH_SECONDS = 0.1
"""A push of 0.5 m/s acts that long on the hand's target: 5 cm at strength 1."""


class MetaWorldEnv(BatchedEnv):
    """N worlds of one task.

    Observations: `proprio` (N, 17) float32, the numbers of `envs.bodies.sawyer`; with cameras also `images`
    (N, cameras, 3, H, W) uint8, rendered when an observation is asked for and only for worlds that moved since.
    With `observation` "state", for policies that see no picture, `proprio` is (N, 34): after the arm's numbers come
    position (metres) and quaternion of two objects (14, zeros where there is no second) and the goal (3, metres).
    With `privileged` also `critic` (N, 34), the same numbers, for the critic of a policy that sees pictures.
    Infos: `success` (N,) bool, reached at some step of the episode; `success_now` (N,) bool; `tool_position` (N, 3)
    metres, the hand.
    Rewards: Meta-World's dense ones, 0 to 10 a step; with `reward` "success", 1 at each step at which the task is
    solved and 0 otherwise (as in robomimic's tasks, which DPPO and ReinFlow are fine-tuned on).
    `metaworld-state/<task>` (`envs.make`) sets both, ends episodes at success and after 200 steps.
    """

    body = "sawyer"
    dt = 0.0125
    published_steps = 500
    action_parts = ActionParts(position=slice(0, 3), reach=0.01)

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        *,
        seed: int = 0,
        cameras: tuple[str, ...] = (),
        image_size: int = 96,
        max_episode_steps: int = 300,
        terminate_on_success: bool = False,
        paraphrases: bool = False,
        push_target: Literal["hand", "object"] = "hand",
        observation: Literal["arm", "state"] = "arm",
        reward: Literal["dense", "success"] = "dense",
        privileged: bool = False,
        render: RenderSettings | None = None,
        variation: RenderVariation | None = None,
    ) -> None:
        """`paraphrases` draws each episode's sentence among the task's; raises InputError on unknown names.

        `render` says how pictures are drawn, `variation` how that differs from episode to episode.
        """
        task = task.removeprefix("metaworld-state/").removeprefix("metaworld/")
        if task not in ENV_CLS_MAP:
            raise problem("task", "one of Meta-World's 50 tasks", task, nearest(task, TASKS))
        for label, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if value < 1:
                raise problem(label, "at least 1", value)
        for label, word, words in (
            ("push_target", push_target, ("hand", "object")),
            ("observation", observation, ("arm", "state")),
            ("reward", reward, ("dense", "success")),
        ):
            if word not in words:
                raise problem(label, " or ".join(map(repr, words)), word)
        self.observation, self.reward, self.privileged = observation, reward, privileged
        self.task, self.name, self.num_envs = task, f"metaworld/{task}", num_envs
        if observation == "state":  # other numbers than the body's own, so that no policy is used on both
            self.body, self.name = "sawyer_state", f"metaworld-state/{task}"
        self.cameras, self.image_size = tuple(cameras), image_size
        self.max_episode_steps, self.terminate_on_success = max_episode_steps, terminate_on_success
        self.paraphrases, self.push_target = paraphrases, push_target
        self._envs = [_copy_world(_first_world(task)) for _ in range(num_envs)]
        self._expert: Any = ENV_POLICY_MAP[task]()  # type: ignore[abstract]
        self._seed = np.arange(seed, seed + num_envs, dtype=np.int64)
        self._episode = np.full(num_envs, -1, dtype=np.int64)
        self._state = np.zeros((num_envs, 39))  # Meta-World's own observation, which its experts read
        self._success, self._success_now = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self.instruction = [sentence(task)] * num_envs
        view = {"free_cameras": {"close": CLOSE}, "rotated": UPSIDE_DOWN}
        self._renderers = Renderers(lambda: self._envs[0].model, render, variation, beside=BESIDE, **view)
        for camera in self.cameras:
            self._renderers.get(image_size, image_size).check_camera(camera)
        self._pictures = Pictures(num_envs, self.cameras, image_size, lambda *asked: self._picture(*asked))
        self._arm = SawyerIndex.of(self._envs[0].model)
        self._spaces()
        self._reset_worlds(np.ones(num_envs, bool), None)

    def _spaces(self) -> None:
        self._arm_size, size = (len(self._numbers(0, whole)) for whole in (False, True))
        seen = self._arm_size if self.observation == "arm" else size
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, (seen,), np.float32)}
        if self.privileged:
            parts["critic"] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        if self.cameras:
            parts["images"] = self._pictures.space
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        arm = self._arm_size
        self.named = {
            "tool": Named((0, 1, 2), LENGTH, CENTRE),
            "gripper": Named((6,)),
            "object": Named(tuple(range(arm, arm + 3))),
            "goal": Named(tuple(range(size - 3, size))),
        }
        self._allocate()

    # ---- episodes ------------------------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for world in np.flatnonzero(mask):
            if seeds is not None and seeds[world] is not None:
                self._seed[world], self._episode[world] = seeds[world], -1
            self._episode[world] += 1
            self._begin_episode(int(world))
        self._success[mask], self._success_now[mask] = False, False
        self._pictures.move(mask)

    def _begin_episode(self, world: int) -> None:
        env = self._envs[world]
        generator = numpy_generator(int(self._seed[world]), f"metaworld/{self.task}", int(self._episode[world]))
        env.np_random, env._freeze_rand_vec, env.curr_path_length = generator, False, 0
        self._renderers.begin_episode(world, int(self._seed[world]), int(self._episode[world]))
        mujoco.mj_resetData(env.model, env.data)
        env.reset_model()  # draws goal and object positions and writes them into the model
        env._freeze_rand_vec = True
        mujoco.mj_resetData(env.model, env.data)
        state = env.reset_model()  # the same vector again, now with nothing left of the episode before
        env._prev_obs = state[:18].copy()
        state[18:36] = state[:18]
        self._state[world] = state
        if self.paraphrases and self.instruction is not None:
            self.instruction[world] = sentence(self.task, generator)

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        reward = np.zeros(self.num_envs)
        truncated = np.zeros(self.num_envs, bool)
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        for world in np.flatnonzero(active):
            env = self._envs[world]
            self._state[world], reward[world], _, _, info = env.step(action[world])
            self._success_now[world] = info["success"] > 0
            if self.reward == "success":
                reward[world] = float(self._success_now[world])
            truncated[world] = env.curr_path_length >= self.max_episode_steps
        self._success |= self._success_now & active
        self._pictures.move(active)
        terminated = self._success & active if self.terminate_on_success else np.zeros(self.num_envs, bool)
        return reward, terminated, truncated & ~terminated

    def _infos(self) -> dict[str, Array]:
        return {
            "success": self._success.copy(),
            "success_now": self._success_now.copy(),
            "tool_position": self._state[:, :3].copy(),
        }

    # ---- what is seen --------------------------------------------------------------------------------------------
    def _observe(self) -> Obs:
        whole = self.privileged or self.observation == "state"
        numbers = np.stack([self._numbers(world, whole) for world in range(self.num_envs)])
        observation = {"proprio": numbers[:, : self._arm_size] if self.observation == "arm" else numbers}
        if self.privileged:
            observation["critic"] = numbers
        if self.cameras and self.rendering:
            observation["images"] = self._pictures.images(self.pictured)
        return observation

    def _numbers(self, world: int, whole: bool) -> Array:
        """Return the arm's numbers, and with `whole` where objects and goal are."""
        env = self._envs[world]
        arm = sawyer_proprio(env.model, env.data, self._arm)
        if not whole:
            return arm
        return np.concatenate([arm, self._state[world, 4:18], self._state[world, 36:39]]).astype(np.float32)

    def _picture(self, world: int, camera: str, width: int, height: int) -> Array:
        env = self._envs[world]
        return self._renderers.render(world, env.model, env.data, camera, width, height)

    def physics(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return the world's MjModel and MjData."""
        return self._envs[world].model, self._envs[world].data

    def own_models(self) -> None:
        """Nothing is to be done: every world has one."""

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures of `camera` (one of CAMERAS; default "close")."""
        return np.stack([self._picture(world, camera or "close", width, height) for world in worlds])

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers."""
        self._renderers.close()

    def expert_action(self) -> Array:
        """Return (N, 4) float32 actions of the package's scripted expert for the task, clipped to [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the experts warn that they exceed 1, which is clipped here
            actions = [np.asarray(self._expert.get_action(state), dtype=np.float64) for state in self._state]
        return np.clip(np.stack(actions), -1.0, 1.0).astype(np.float32)

    def object_poses(self) -> dict[str, Array]:
        """Return positions in metres, (N, 3) float32 each: `hand`, `object` (`object_2` where there is one), `goal`.

        World frame of Meta-World: x to the right of the robot, y away from it, z up; the table's centre is (0, 0.6).
        """
        poses = {"hand": self._state[:, 0:3], "object": self._state[:, 4:7], "goal": self._state[:, 36:39]}
        if len(self._envs[0]._get_pos_objects()) > 3:
            poses["object_2"] = self._state[:, 11:14]
        return {name: value.astype(np.float32) for name, value in poses.items()}

    # ---- disturbances and state ----------------------------------------------------------------------------------
    def push(self, mask: Array, generator: np.random.Generator, strength: float = 1.0) -> None:
        """Shove the hand (its target jumps 5 cm x strength), or throw a free object (0.5 m/s x strength), sideways.

        Raises InputError when `push_target` is "object" and the task's object is not a free body.
        """
        for world in np.flatnonzero(mask):
            env = self._envs[world]
            angle = generator.uniform(0.0, 2.0 * np.pi)
            velocity = 0.5 * strength * np.array([np.cos(angle), np.sin(angle), 0.0])
            if self.push_target == "hand":
                moved = env.data.mocap_pos[0] + PUSH_SECONDS * velocity
                env.data.mocap_pos[0] = np.clip(moved, env.mocap_low, env.mocap_high)
            else:
                free = np.flatnonzero(env.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
                if not len(free):
                    raise problem("push_target", f"'hand' for {self.name}, whose object is not free", "object")
                start = env.model.jnt_dofadr[free[0]]
                env.data.qvel[start : start + 3] += velocity
            mujoco.mj_forward(env.model, env.data)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: an episode's start is replayed from its seed, what happened since is stored."""
        return super().state_dict() | {
            "seed": self._seed.copy(),
            "episode": self._episode.copy(),
            "state": self._state.copy(),
            "success": self._success.copy(),
            "success_now": self._success_now.copy(),
            "physics": [self._physics(env) for env in self._envs],
            "attributes": [numeric_attributes(env, skip=("max_path_length",)) for env in self._envs],
        }

    def _physics(self, env: Any) -> Array:
        vector = np.empty(mujoco.mj_stateSize(env.model, STATE))
        mujoco.mj_getState(env.model, env.data, vector, STATE)
        return vector

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        super().load_state_dict(state)
        self._seed[:], self._episode[:] = np.asarray(state["seed"]), np.asarray(state["episode"])
        for world, env in enumerate(self._envs):
            self._begin_episode(world)
            physics = np.asarray(state["physics"][world], dtype=np.float64)
            mujoco.mj_setState(env.model, env.data, physics, STATE)
            mujoco.mj_forward(env.model, env.data)
            mujoco.mj_setState(env.model, env.data, physics, STATE)  # mj_forward has changed the solver's warm start
            restore_attributes(env, state["attributes"][world])
        self._state[:] = np.asarray(state["state"])
        self._success[:], self._success_now[:] = np.asarray(state["success"]), np.asarray(state["success_now"])
        self._pictures.move()


def _touching(env: Any, geom: int) -> bool:
    """Say what the package's `touching_object` says: whether both pads of the gripper press on a geom.

    There every contact is looked at four times in Python, which takes longer than the physics of a control step.
    """
    contact, force = env.data.contact, env.data.efc_force
    of_geom = (contact.geom == geom).any(1)
    for pad in ("leftpad_geom", "rightpad_geom"):
        rows = of_geom & (contact.geom == env.data.geom(pad).id).any(1)
        if not sum(force[contact.efc_address[rows]]) > 0.0:
            return False
    return True


@lru_cache(maxsize=2)
def _first_world(task: str) -> Any:
    """Return a world of a task to copy worlds from; it is never stepped."""
    kind = ENV_CLS_MAP[task]
    env: Any = type(kind.__name__, (kind,), {"touching_object": _touching})()
    env._partially_observable = False  # the experts read the goal
    del env.sawyer_observation_space  # cached while the goal was hidden; its bounds would clip the goal to 0
    env._set_task_called = True
    env.seeded_rand_vec = True  # draw from `np_random`, which is set at each reset, not from the global generator
    env.max_path_length = np.iinfo(np.int64).max  # the time limit is ours
    return env


def _copy_world(first: Any) -> Any:
    """Return a world of its own like `first`, without reading and compiling its model again (a tenth of a second).

    Nor does `copy.copy` make it: the package's worlds compile their model whenever they are copied.
    """
    world = object.__new__(type(first))
    apart = ("model", "data", "mujoco_renderer")  # the package's renderer is never used
    world.__dict__ = {name: value if name in apart else copy.deepcopy(value) for name, value in vars(first).items()}
    world.model = copy.copy(first.model)
    world.data = mujoco.MjData(world.model)
    return world
