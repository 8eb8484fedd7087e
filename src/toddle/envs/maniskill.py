"""ManiSkill 3.0.1 (Tao et al. 2024, arXiv 2410.00425) as an environment of toddle; the package is imported here only.

Physics, starts, rewards and success are the package's.  Arms are moved as in `tabletop/`: by motions of the tool
(`pd_ee_delta_pose`), whose rotations ManiSkill 3.0.1 takes with the opposite sign, which is put right here.  On a
CPU every world is a simulation of its own, stepped one after the other; on a GPU all are one (`maniskill_gpu`).
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from toddle.core.errors import InputError, nearest, problem
from toddle.envs.base import Array, Obs
from toddle.envs.gymnasium_any import AnyGymnasiumEnv, body_name
from toddle.envs.gymnasium_spaces import fitted
from toddle.envs.maniskill_rules import REPLICAS, SENTENCES, ManiskillMoment, arm_numbers, moment_of, tool_of
from toddle.envs.tabletop.reading import thing_numbers
from toddle.envs.tabletop.task import check_options
from toddle.envs.tabletop.tasks import TASKS

__all__ = ["CAMERAS", "REWARDS", "ManiskillEnv", "check_settings", "make_simulation", "native", "numbers", "state_body"]

CAMERAS = ("base_camera",)
REWARDS = {"dense": "normalized_dense", "sparse": "sparse", "success": "sparse"}
DRAWN_ANEW = ("PegInsertionSide-v1",)
"""Tasks whose things have other sizes in every episode: ManiSkill then builds the scene again."""
FILM = 256


class _Nothing:
    """Stands for a material, where there is no device to draw with."""

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def set_base_color(self, colour: Any) -> None:
        """Colour nothing."""


def _package() -> bool:
    """Import ManiSkill, and return whether it can draw here.

    Its scenes make materials even where nothing is drawn, and SAPIEN cannot make one without a Vulkan device.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sapien.pysapien.render
        import sapien.render
        import sapien.wrapper.urdf_loader

        try:
            sapien.render.RenderMaterial()
            draws = sapien.render.RenderMaterial is not _Nothing
        except RuntimeError:
            draws = False
        if not draws:
            for module in (sapien.render, sapien.pysapien.render, sapien.wrapper.urdf_loader):
                for name in ("RenderMaterial", "RenderTexture2D"):
                    setattr(module, name, _Nothing)
        import mani_skill.envs  # noqa: F401  (registers the tasks)
    return draws


def make_simulation(task: str, count: int, *, reward: str, cameras: tuple[str, ...], size: int, gpu: bool) -> Any:
    """Return ManiSkill's environment of `count` worlds (more than one: on a GPU), which draws nothing by itself.

    Raises InputError where pictures are asked for and there is nothing to draw with.
    """
    draws = _package()
    if cameras and not draws:
        raise InputError(
            "rendering: ManiSkill finds no Vulkan device; install a driver (Mesa's lavapipe from 24.3 on draws on a "
            "CPU), or run without cameras"
        )
    sim: Any = gymnasium.make(
        task,
        num_envs=count,
        obs_mode="state",
        control_mode="pd_ee_delta_pose",
        reward_mode=REWARDS[reward],
        render_mode="rgb_array" if draws else None,
        sim_backend="physx_cuda" if gpu else "physx_cpu",
        render_backend=("gpu" if gpu else "cpu") if draws else "none",
        sensor_configs={"width": size, "height": size},
        human_render_camera_configs={"width": FILM, "height": FILM},
        disable_env_checker=True,
    ).unwrapped
    sim._hidden_objects = []  # ManiSkill hides the ball of PickCube from its cameras, and nobody could know the goal
    return sim


def native(action: Array) -> Array:
    """Return actions (N, 7) as ManiSkill 3.0.1 takes them: it multiplies rotations by the LOWER bound, -0.1 rad."""
    return np.asarray(action * np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]), np.float32)


def state_body(task: str) -> str:
    """Return the body of a policy of states: that of the replica in `tabletop/`, where there is one."""
    if task in REPLICAS:
        return f"panda_tool_{REPLICAS[task].task.replace('-', '_')}"
    return f"panda_{body_name(task)}"


def numbers(task: str, sims: list[Any], observation: str) -> Array:
    """Return what a policy is told (N, O) float32: of the arm, or of the state."""
    if observation == "arm":
        return arm_numbers(sims).astype(np.float32)
    if task in REPLICAS:
        things = thing_numbers(TASKS[REPLICAS[task].task], moment_of(sims, REPLICAS[task]))
        return np.concatenate([arm_numbers(sims), things], 1).astype(np.float32)
    return np.concatenate([sim.get_obs().cpu().numpy() for sim in sims]).astype(np.float32)


def check_settings(
    task: str,
    num_envs: int,
    cameras: tuple[str, ...],
    observation: str,
    reward: str,
    horizon_scale: int,
    max_episode_steps: int | None,
) -> None:
    """Raise InputError for what neither simulation of a task takes."""
    if task not in SENTENCES:
        raise problem("task", f"one of {', '.join(SENTENCES)}", task, nearest(task, SENTENCES))
    if reward not in REWARDS:
        raise problem("reward", "'dense', 'sparse' or 'success' with maniskill/", reward)
    check_options(observation, reward, num_envs, horizon_scale, max_episode_steps)
    for camera in cameras:
        if camera not in CAMERAS:
            raise problem("camera", " or ".join(CAMERAS), camera)


class _World(gymnasium.Env[Any, Any]):
    """One simulation of one world, as gymnasium knows environments."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, task: str, observation: str, ends: bool, **options: Any) -> None:
        self.task, self.observation, self.ends = task, observation, ends
        self.sim = make_simulation(task, 1, gpu=False, **options)
        self.dt = float(self.sim.control_timestep)
        width = numbers(task, [self.sim], observation).shape[1]
        self.observation_space = spaces.Dict({"proprio": spaces.Box(-np.inf, np.inf, (width,), np.float32)})
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.success = self.success_now = False

    def _seen(self) -> dict[str, Array]:
        return {"proprio": numbers(self.task, [self.sim], self.observation)[0]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.sim.reset(seed=seed, options={"reconfigure": self.task in DRAWN_ANEW})
        self.success = self.success_now = False
        return self._seen(), {"success": False}

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, reward, _, _, info = self.sim.step(native(action))
        self.success_now = bool(info["success"][0])
        self.success |= self.success_now
        fell = bool(info["fail"][0]) if "fail" in info else False
        return self._seen(), float(reward[0]), fell or (self.ends and self.success), False, {"success": self.success}

    def picture(self, camera: str) -> Array:
        """Return (H, W, 3) uint8 of a camera now."""
        return np.asarray(self.sim._get_obs_sensor_data()[camera]["rgb"][0].cpu().numpy(), np.uint8)

    def render(self) -> Any:
        return np.asarray(self.sim.render_rgb_array()[0].cpu().numpy(), np.uint8)

    def close(self) -> None:
        self.sim.close()


class ManiskillEnv(AnyGymnasiumEnv):
    """N worlds of one task, each a simulation on the CPU.  Actions (N, 7): motion of the tool, gripper, at 20 Hz.

    Observations: `proprio` (N, 27), the arm's own numbers in the order of `tabletop/`, where there are cameras, else
    the state: of the five tasks that `tabletop/` follows the numbers that it shows too, so that a policy of states acts
    in both; of the others ManiSkill's own.  Infos: `success` (at some step), `success_now`, the tool's pose.  Rewards:
    "dense" is ManiSkill's normalised one, "sparse" (or "success") 1 where solved.  The five have tabletop's experts.
    """

    _worlds: list[_World]  # type: ignore[assignment]

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        *,
        seed: int = 0,
        cameras: tuple[str, ...] = (),
        image_size: int = 96,
        max_episode_steps: int | None = None,
        horizon_scale: int = 1,
        terminate_on_success: bool = False,
        observation: Literal["auto", "arm", "state"] = "auto",
        reward: Literal["dense", "sparse", "success"] = "dense",
    ) -> None:
        """Build the worlds; a world of seed s begins where ManiSkill's reset(seed=s) does.

        Raises InputError for unknown names, and where pictures cannot be drawn.
        """
        check_settings(task, num_envs, cameras, observation, reward, horizon_scale, max_episode_steps)
        told = ("arm" if cameras else "state") if observation == "auto" else observation
        _package()
        own = gymnasium.spec(task).max_episode_steps or 100
        self._drawn: Array | None = None
        self._memory = {"phase": np.zeros(num_envs, np.int64), "count": np.zeros(num_envs, np.int64)}
        super().__init__(
            f"maniskill/{task}",
            lambda: _World(task, told, terminate_on_success, reward=reward, cameras=tuple(cameras), size=image_size),
            num_envs,
            seed=seed,
            max_episode_steps=max_episode_steps or horizon_scale * own,
            body="panda_tool" if told == "arm" else state_body(task),
        )
        self.task, self.published_steps = task, own
        self.instruction = [SENTENCES[task]] * num_envs
        self.cameras = tuple(cameras)
        pictures = (len(cameras), 3, image_size, image_size)
        self._images: Array = np.zeros((num_envs, *pictures), np.uint8)
        self._drawn = np.full(num_envs, -1)
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, (self._seen.width,), np.float32)}
        if cameras:
            parts["images"] = spaces.Box(0, 255, pictures, np.uint8)
        self.single_observation_space = spaces.Dict(parts)
        self._allocate()

    def _begin_episode(self, world: int) -> None:
        super()._begin_episode(world)
        for values in self._memory.values():
            values[world] = 0
        if self._drawn is not None:
            self._drawn[world] = -1

    def _observe(self) -> Obs:
        observation = {"proprio": self._proprio.copy()}
        if self._drawn is not None and self.cameras and self.rendering:
            made = np.array([len(actions) for actions in self._actions])
            for world in np.flatnonzero(self.pictured & (self._drawn != made)):
                for index, camera in enumerate(self.cameras):
                    self._images[world, index] = self._worlds[world].picture(camera).transpose(2, 0, 1)
                self._drawn[world] = made[world]
            observation["images"] = self._images.copy()
        return observation

    def _infos(self) -> dict[str, Array]:
        place, turn = tool_of([world.sim for world in self._worlds])
        return {
            "success": np.array([world.success for world in self._worlds]),
            "success_now": np.array([world.success_now for world in self._worlds]),
            "tool_position": place,
            "tool_orientation": turn,
        }

    def moment(self) -> ManiskillMoment:
        """Return the worlds as tabletop's rules see them.  Raises InputError for tasks that it does not follow."""
        if self.task not in REPLICAS:
            raise problem("expert", f"one of {', '.join(REPLICAS)}", self.task)
        return moment_of([world.sim for world in self._worlds], REPLICAS[self.task])

    def expert_action(self) -> Array:
        """Return (N, 7) float32 actions of tabletop's scripted expert."""
        return TASKS[REPLICAS[self.task].task].expert(self.moment(), self._memory)

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures: of ManiSkill's camera for films, or of `camera`."""
        for world in worlds:
            if not self._worlds[world].sim.scene.can_render():
                raise problem(f"pictures of {self.name}", "a Vulkan device", "none")
        shown = [self._worlds[world].picture(camera) if camera else self._worlds[world].render() for world in worlds]
        return np.stack([fitted(picture, width, height) for picture in shown])

    def state_dict(self) -> dict[str, Any]:
        """Return what plays the episodes under way again, and what the experts remember."""
        return super().state_dict() | {"memory": {name: values.copy() for name, values in self._memory.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the episodes under way again."""
        super().load_state_dict(state)
        for name, values in self._memory.items():
            values[:] = np.asarray(state["memory"][name])
