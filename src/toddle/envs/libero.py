"""LIBERO's 130 tasks for a Panda arm: official initial states, operational-space actions, success by BDDL predicate.

Source: hf-libero 0.1.4 over robosuite 1.4.0 (imported in this file only).  Protocol of the papers that report LIBERO:
20 Hz, 7 actions (change of position and of rotation, gripper; -1 opens), 10 steps without motion after the initial
state is set, 220 / 280 / 300 / 520 / 400 steps for spatial / object / goal / 10 / 90.
Pictures are upright (robosuite's own come upside down) and drawn without shadows, for speed (`render` can say else).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import mujoco
import numpy as np
import yaml
from gymnasium import spaces

from toddle.core.errors import nearest, problem
from toddle.core.files import write_text_atomic
from toddle.core.numpy_file import load_array
from toddle.core.rendering import RenderSettings, RenderVariation
from toddle.core.seeding import seed_sequence
from toddle.core.types import ActionParts
from toddle.envs.attributes import numeric_attributes, restore_attributes
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.libero_assets import find_assets, package_folder
from toddle.envs.libero_expert import pick_and_place
from toddle.envs.pictures import Pictures
from toddle.envs.scene_renderer import Renderers

__all__ = ["CAMERAS", "STEP_LIMITS", "LiberoEnv"]

STEP_LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
BESIDE = ((-0.3, 0.3, 0.2, 0.42), (-0.3, -0.42, 0.2, -0.3))
"""Where objects stand that are no part of the task: left and right, on whatever is there."""
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand", "frontview": "frontview"}
STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
COLLISION_GROUP = 0  # robosuite's collision shapes; group 1 is what is seen


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "toddle" / "libero"


def _load_package(assets: str | None) -> ModuleType:
    """Import libero, which reads a config file while it is imported, and asks on stdin where there is none."""
    root, folder = package_folder(), find_assets(assets)
    if "libero.libero" not in sys.modules and "LIBERO_CONFIG_PATH" not in os.environ:
        os.environ["LIBERO_CONFIG_PATH"] = str(_cache())
        paths = {
            "benchmark_root": ".",
            "bddl_files": "bddl_files",
            "init_states": "init_files",
            "datasets": "../datasets",
            "assets": "assets",
        }
        entries = {key: str(root / value) for key, value in paths.items()}
        write_text_atomic(_cache() / "config.yaml", yaml.safe_dump(entries))
    logging.disable(logging.WARNING)  # robosuite warns about a macro file that nobody needs
    try:
        import libero.libero as package

        package._assets_path_cache = str(folder)  # LIBERO looks here first, and else asks its hub
        import libero.libero.benchmark
        import libero.libero.envs.env_wrapper
    finally:
        logging.disable(logging.NOTSET)
    return libero


class LiberoEnv(BatchedEnv):
    """N worlds of one task.  A world of seed s begins its k-th episode at official initial state (s + k) mod 50.

    With `observation` "state", for policies that see no picture, `proprio` has 12 numbers more for each object that the
    task names: its place, its place as seen from the hand (m), and the first two columns of its rotation matrix.
    `libero-state/libero_object/<index>` sets it, and ends episodes at success.

    Observations: `proprio` (N, 8) float32: position of the hand (m), its rotation as axis times angle (rad), joint
    positions of the two fingers (m), the numbers that published VLAs use; with cameras also `images`
    (N, cameras, 3, H, W) uint8.  Infos: `success`, `success_now` (N,) bool, `tool_position` (N, 3).  Reward: 1 at a
    step at which the task is solved, else 0.
    """

    body = "libero_panda"
    dt = 0.05
    action_parts = ActionParts(position=slice(0, 3), rotation=slice(3, 6), turn=0.5, reach=0.05)  # robosuite's OSC_POSE
    grasps = 2  # the fingers along one side of the object or along the other, where both fit between them

    def __init__(
        self,
        suite: str,
        index: int,
        num_envs: int = 1,
        *,
        seed: int = 0,
        cameras: tuple[str, ...] = (),
        image_size: int = 128,
        max_episode_steps: int | None = None,
        settle_steps: int = 10,
        terminate_on_success: bool = False,
        observation: Literal["arm", "state"] = "arm",
        assets: str | None = None,
        render: RenderSettings | None = None,
        variation: RenderVariation | None = None,
    ) -> None:
        """`max_episode_steps` defaults to the suite's limit, `assets` to what `libero_assets.find_assets` finds."""
        if suite not in STEP_LIMITS:
            raise problem("suite", "a LIBERO suite", suite, nearest(suite, STEP_LIMITS))
        package = _load_package(assets)
        tasks = list(package.libero.benchmark.task_maps[suite].values())
        if not 0 <= index < len(tasks):
            raise problem("task", f"0 to {len(tasks) - 1} in {suite}", index)
        for camera in cameras:
            if camera not in CAMERAS:
                raise problem("camera", "a camera of LIBERO", camera, nearest(camera, CAMERAS))
        task = tasks[index]
        self.task = self.name = f"libero/{suite}/{index}"
        self.num_envs, self.observation = num_envs, observation
        if observation == "state":  # other numbers than the body's own, so that no policy is used on both
            self.body, self.name = "libero_panda_state", f"libero-state/{suite}/{index}"
        self.cameras, self.image_size = tuple(cameras), image_size
        self.max_episode_steps = max_episode_steps or STEP_LIMITS[suite]
        self.settle_steps, self.terminate_on_success = settle_steps, terminate_on_success
        folder = Path(package.libero.get_libero_path("init_states")) / task.problem_folder
        # a file of the installed package; numpy arrays, which torch's safe loader does not know
        self.initial_states = load_array(folder / task.init_states_file)
        bddl = Path(package.libero.get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
        self._envs = [self._make_world(package, bddl) for _ in range(num_envs)]
        self.instruction = [task.language] * num_envs
        self._seed = np.arange(seed, seed + num_envs, dtype=np.int64)
        self._episode = np.full(num_envs, -1, dtype=np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._success, self._success_now = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        hidden = (COLLISION_GROUP,)
        self._renderers = Renderers(lambda: self.physics(0)[0], render, variation, beside=BESIDE, hidden_groups=hidden)
        self._pictures = Pictures(num_envs, self.cameras, image_size, lambda *asked: self._picture(*asked))
        numbers = self._proprio(self._envs[0]).shape
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, numbers, np.float32)}
        if self.cameras:
            parts["images"] = self._pictures.space
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self._allocate()
        self._reset_worlds(np.ones(num_envs, bool), None)

    def _make_world(self, package: ModuleType, bddl: Path) -> Any:
        env = package.libero.envs.env_wrapper.ControlEnv(
            bddl_file_name=str(bddl),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            hard_reset=False,
            ignore_done=True,
        ).env
        for name in env.observation_names:
            env.modify_observable(name, "enabled", False)  # sampled at each of 25 physics steps; we read the simulator
        return env

    # ---- episodes ------------------------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        for world in np.flatnonzero(mask):
            if seeds is not None and seeds[world] is not None:
                self._seed[world], self._episode[world] = seeds[world], -1
            self._episode[world] += 1
            self._begin_episode(int(world), self.settle_steps)
        self._steps[mask], self._success[mask], self._success_now[mask] = 0, False, False
        self._pictures.move(mask)

    def _begin_episode(self, world: int, settle_steps: int) -> None:
        env, seed, episode = self._envs[world], int(self._seed[world]), int(self._episode[world])
        self._renderers.begin_episode(world, seed, episode)
        before = np.random.get_state()  # noqa: NPY002  robosuite places fixtures by the global generator
        np.random.seed(int(seed_sequence(seed, self.task, episode).generate_state(1)[0]))  # noqa: NPY002
        try:
            env.reset()
        finally:
            np.random.set_state(before)  # noqa: NPY002
        env.robots[0].gripper.current_action = np.zeros(1)  # robosuite keeps it from the episode before
        env.sim.set_state_from_flattened(self.initial_states[(seed + episode) % len(self.initial_states)])
        env.sim.forward()
        env._post_process()
        for _ in range(settle_steps):
            env.step(np.array([0.0] * 6 + [-1.0]))
        env.sim.forward()

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        reward = np.zeros(self.num_envs)
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        for world in np.flatnonzero(active):
            _, _, done, _ = self._envs[world].step(action[world])
            self._success_now[world] = reward[world] = bool(done)
            self._envs[world].sim.forward()  # robosuite leaves positions one physics step (2 ms) behind the joints
        self._steps += active
        self._success |= self._success_now & active
        self._pictures.move(active)
        terminated = self._success & active if self.terminate_on_success else np.zeros(self.num_envs, bool)
        return reward, terminated, (self._steps >= self.max_episode_steps) & active & ~terminated

    def _infos(self) -> dict[str, Array]:
        tool = np.stack([env.sim.data.site_xpos[env.robots[0].eef_site_id] for env in self._envs])
        return {"success": self._success.copy(), "success_now": self._success_now.copy(), "tool_position": tool}

    # ---- what is seen --------------------------------------------------------------------------------------------
    def _proprio(self, env: Any) -> Array:
        robot, data = env.robots[0], env.sim.data
        w, *axis = data.get_body_xquat(robot.robot_model.eef_name)  # of the body, not of the site: robosuite's choice
        sine = np.sqrt(max(0.0, 1.0 - w * w))
        rotation = np.asarray(axis) * (2.0 * np.arccos(np.clip(w, -1.0, 1.0)) / sine if sine > 1e-9 else 0.0)
        hand, fingers = data.site_xpos[robot.eef_site_id], data.qpos[robot._ref_gripper_joint_pos_indexes]
        found = [hand, rotation, fingers]
        if self.observation == "state":
            for name in env.obj_of_interest:
                body = env.obj_body_id[name]
                place, turned = data.body_xpos[body], data.body_xmat[body].reshape(3, 3)
                found += [place, place - hand, turned[:, 0], turned[:, 1]]
        return np.concatenate(found).astype(np.float32)

    def _observe(self) -> Obs:
        observation = {"proprio": np.stack([self._proprio(env) for env in self._envs])}
        if self.cameras and self.rendering:
            observation["images"] = self._pictures.images(self.pictured)
        return observation

    def _picture(self, world: int, camera: str, width: int, height: int) -> Array:
        model, data = self.physics(world)
        return self._renderers.render(world, model, data, CAMERAS.get(camera, camera), width, height)

    def physics(self, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        sim = self._envs[world].sim  # robosuite wraps both
        return sim.model._model, sim.data._data

    def own_models(self) -> None:
        """Nothing is to be done: every world has one."""

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures of `camera` (default "agentview")."""
        return np.stack([self._picture(world, camera or "agentview", width, height) for world in worlds])

    def object_poses(self) -> dict[str, Array]:
        """Return positions in metres, (N, 3) float32 each: `hand` and the scene's objects by their names."""
        hand = np.stack([env.sim.data.site_xpos[env.robots[0].eef_site_id] for env in self._envs])
        poses = {"hand": hand}
        for name, body in self._envs[0].obj_body_id.items():
            poses[name] = np.stack([env.sim.data.body_xpos[body] for env in self._envs])
        return {name: value.astype(np.float32) for name, value in poses.items()}

    def expert_action(self) -> Array:
        """Return (N, 7) float32 actions of our scripted expert; InputError outside the suite libero_object."""
        chosen = np.zeros(self.num_envs, int) if self.grasp is None else self.grasp
        return np.stack([pick_and_place(env, self.task, bool(own)) for env, own in zip(self._envs, chosen)])

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers and the simulators."""
        self._renderers.close()

    # ---- disturbances and state ----------------------------------------------------------------------------------
    def push(self, mask: Array, generator: np.random.Generator, strength: float = 1.0) -> None:
        """Give the hand a sideways speed of 0.5 m/s x strength, through the arm's joints."""
        for world in np.flatnonzero(mask):
            model, data = self.physics(int(world))
            robot = self._envs[world].robots[0]
            angle = generator.uniform(0.0, 2.0 * np.pi)
            velocity = 0.5 * strength * np.array([np.cos(angle), np.sin(angle), 0.0])
            jacobian = np.zeros((3, model.nv))
            mujoco.mj_jacSite(model, data, jacobian, None, robot.eef_site_id)
            arm = np.asarray(robot._ref_joint_vel_indexes)
            data.qvel[arm] += np.linalg.pinv(jacobian[:, arm]) @ velocity
            mujoco.mj_forward(model, data)
            self._pictures.move(world)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: an episode's start is replayed from its seed, what happened since is stored."""
        worlds = []
        for index, env in enumerate(self._envs):
            model, data = self.physics(index)
            physics = np.empty(mujoco.mj_stateSize(model, STATE))
            mujoco.mj_getState(model, data, physics, STATE)
            robot = env.robots[0]
            worlds.append(
                {
                    "physics": physics,
                    "env": numeric_attributes(env),
                    "robot": numeric_attributes(robot),
                    "controller": numeric_attributes(robot.controller),
                    "gripper": np.array(robot.gripper.current_action, dtype=np.float64),
                }
            )
        return super().state_dict() | {
            "seed": self._seed.copy(),
            "episode": self._episode.copy(),
            "steps": self._steps.copy(),
            "success": self._success.copy(),
            "success_now": self._success_now.copy(),
            "worlds": worlds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        super().load_state_dict(state)
        for name in ("seed", "episode", "steps", "success", "success_now"):
            getattr(self, f"_{name}")[:] = np.asarray(state[name])
        for index, (env, stored) in enumerate(zip(self._envs, state["worlds"], strict=True)):
            self._begin_episode(index, 0)
            model, data = self.physics(index)
            physics = np.asarray(stored["physics"], dtype=np.float64)
            mujoco.mj_setState(model, data, physics, STATE)
            mujoco.mj_forward(model, data)
            mujoco.mj_setState(model, data, physics, STATE)  # mj_forward has changed the solver's warm start
            restore_attributes(env, stored["env"])
            restore_attributes(env.robots[0], stored["robot"])
            restore_attributes(env.robots[0].controller, stored["controller"])
            env.robots[0].gripper.current_action = np.array(stored["gripper"])
            env._post_process()
        self._pictures.move()
