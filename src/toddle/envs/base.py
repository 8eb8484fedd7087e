"""The one kind of environment toddle trains in: N worlds behind gymnasium's VectorEnv API, stepped a chunk at a time.

Autoreset is SAME_STEP: the observation returned for a world that ended is the first of its next episode, and what it
ended in is in ``info["final_obs"]``.  `terminated` and `truncated` are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from toddle.core.errors import EnvironmentFault, InputError, NaNError, problem
from toddle.core.types import ActionParts, BodySpec, Named

__all__ = ["Array", "BatchedEnv", "Obs"]

Array = NDArray[Any]
Obs = Any
"""An array (N, O), or a dictionary of arrays whose keys are those of `core.types.Observation`."""


class BatchedEnv(VectorEnv[Obs, Array, Array]):
    """Base of every environment here.

    A subclass sets the attributes below, calls `_allocate()` at the end of its constructor, and implements
    `_reset_worlds`, `_step_worlds`, `_observe`, `state_dict`, `load_state_dict`; the rest is optional.

    Info returned by `step` and `step_chunk`, each an array of length N:
      final_obs        the observations before autoreset (only when a world ended; valid where `_final_obs`)
      _final_obs       bool, the world ended in this call
      episode_return   sum of rewards of the episode so far (of the ended one where it ended)
      episode_length   control steps, likewise
      executed         (N, A) where there are `limits`: the last action as the simulator had it; `limited`: whether it
                       was changed
      stage, planned   (N,) where there are `stages`: which one a world is in, control steps that its moves have taken
      steps            control steps made in this call (a chunk stops where its episode ends, or a stage)
      rewards          (N, H) the reward of each control step of this call, 0 where none was made
      cost             the sum of what `_infos` reports as `cost` at each control step of this call, or of what `costs`
                       counts; then also `cost_<name>`, of each of them
      success, ...     whatever else `_infos` reports, (N, ...), as it was at the world's last control step
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    name: str  # as `envs.make` takes it, e.g. "metaworld/reach-v3"
    body: str  # the embodiment whose banks a policy uses here, e.g. "sawyer"
    dt: float  # seconds of one control step
    max_episode_steps: int
    published_steps: int | None = None  # the limit in the benchmark's own protocol, where it has another
    num_envs: int
    single_observation_space: gymnasium.Space[Any]
    single_action_space: gymnasium.spaces.Box  # normalised policies act in [-1, 1]; envs rescale if theirs differ
    discrete: int | None = None  # actions of a discrete space, said as the one number 0, 1, ...; None: continuous
    action_parts: ActionParts | None = None  # where motions of a tool stand in an action, where they do
    seeing_spec: BodySpec | None = None  # the body as a policy of pictures knows it in `glimpse`, where there is one
    instruction: list[str] | None = None  # one sentence a world, for tasks that have one
    tasks: tuple[str, ...] = ()  # where each episode is of one of several tasks (`envs.mixture`), their names
    choose: Callable[[int], Array] | None = None  # then: how many episodes begin -> which tasks (count,) these are of
    cameras: tuple[str, ...] = ()  # names of the pictures in the observation's `images`
    rendering: bool = True  # while False, observations come without `images`, which saves their time
    draw_ends: Literal["all", "cut", "none"] = "all"
    """Of which worlds that ended a picture is drawn of what they ended in: of all; of those cut by a time limit, whose
    value a learner asks; of none.  `images` of a world that is not drawn are those of before, or black."""
    grasps: int = 1  # ways in which the scripted expert can take an object, where a task has several
    grasp: Array | None = None  # then: (N,) which of them the expert takes in each world, 0 to grasps - 1; None: 0
    named: Mapping[str, Named] = {}
    """Where in the state (`critic`, else `proprio`) there is what rewards speak of: tool, object, goal, gripper."""
    noise: Any = None  # on actions and observations (`envs.noise.Noise`); None: none
    costs: Any = None  # of manipulation (`envs.costs.Costs`), in place of what `_infos` reports; None: none are counted
    limits: Any = None  # on what actions ask for (`envs.limits.Limits`); None: none
    stages: Any = None  # a plan above the policy (`envs.stages.Stages`); None: none
    domain: Any = None  # what differs from episode to episode (`envs.domain.Domain`); None: nothing does
    pictured: Array  # (N,) bool, the worlds whose pictures `_observe` has to draw where they are not up to date

    # ---- what a subclass implements ------------------------------------------------------------------------------
    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        """Begin a new episode in the worlds of `mask` (N,); `seeds[i]` (where given) re-seeds world i first."""
        raise NotImplementedError

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        """Make one control step in the worlds of `active` (N,) and leave the others as they are.

        Returns reward (N,), terminated (N,), truncated (N,); entries of inactive worlds are ignored.
        """
        raise NotImplementedError

    def _observe(self) -> Obs:
        """Return the observations of all worlds now: fresh arrays, (N, ...)."""
        raise NotImplementedError

    def _infos(self) -> dict[str, Array]:
        """Return per-world facts, such as `success` (N,) bool; called after each control step."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bitwise resume needs (arrays and JSON values), episode counters included."""
        state: dict[str, Any] = {"return": self._return.copy(), "length": self._length.copy()}
        more = {"noise": self.noise, "costs": self.costs, "domain": self.domain, "stages": self.stages}
        return state | {name: part.state_dict() for name, part in more.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        self._return[:] = np.asarray(state["return"])
        self._length[:] = np.asarray(state["length"])
        if self.noise is not None:
            self.noise.load_state_dict(state["noise"])
        if self.costs is not None:
            self.costs.load_state_dict(state["costs"])
        if self.domain is not None:
            self.domain.load_state_dict(state["domain"])
        if self.stages is not None:
            self.stages.load_state_dict(state["stages"])

    def tool_pose(self) -> dict[str, Array]:
        """Return `tool_position` (N, 3) in metres and `tool_orientation` (N, 4) wxyz of the worlds now, where known."""
        infos = self._infos()
        return {key: infos[key] for key in ("tool_position", "tool_orientation") if key in infos}

    def current_observation(self) -> Obs:
        """Return the observations of all worlds now (after `load_state_dict`, say)."""
        self.pictured[:] = True
        return self._noisy(self._observe())

    def expert_action(self) -> Array:
        """Return (N, A) actions of a scripted expert for the worlds as they are now."""
        raise problem("expert", "an environment with a scripted expert", self.name)

    def glimpse(self, worlds: Array) -> dict[str, Array]:
        """Return what a policy of pictures is shown in the worlds (M,) now: `proprio` (M, O) as `seeing_spec` says, and
        `images` (M, cameras, 3, H, W) drawn now; for a learner of states beside a teacher that sees."""
        raise problem("teacher", "an environment with pictures beside its state", self.name)

    def push(self, mask: Array, generator: np.random.Generator, strength: float = 1.0) -> None:
        """Disturb the worlds of `mask` (N,) with a push of `strength` (1 = 0.5 m/s scaled to the body)."""
        raise problem("push", "an environment that can be pushed", self.name)

    def stuck(self) -> Array:
        """Return (N,) bool: what a person who looks would say, that no action leads out of where the world is."""
        raise problem("env", "an environment that can say what nothing leads out of (gutter/)", self.name)

    def physics(self, world: int) -> tuple[Any, Any]:
        """Return the world's MjModel and MjData, to be read alone."""
        raise problem("cost", "an environment whose MuJoCo worlds can be looked into", self.name)

    def pressing(self, actions: Array) -> Array:
        """Return the newtons (N,) with which the tool would press at actions (N, A), were it held where it is."""
        raise problem("limits.force", "an environment whose arm's stiffness is known (tabletop/)", self.name)

    def own_models(self) -> None:
        """Give every world an MjModel of its own, where they share one."""
        raise problem("randomise", "an environment whose MuJoCo models can be changed", self.name)

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures."""
        raise problem("videos", "an environment that can be pictured", self.name)

    @property
    def body_spec(self) -> BodySpec:
        """The body's sizes, as a policy's banks need them."""
        space = self.single_observation_space
        proprio = space["proprio"] if isinstance(space, gymnasium.spaces.Dict) else space
        sizes = [int(np.prod(part.shape)) for part in (proprio, self.single_action_space) if part.shape is not None]
        return BodySpec(name=self.body, proprio=sizes[0], action=sizes[1], dt=self.dt)

    # ---- gymnasium's API -----------------------------------------------------------------------------------------
    def _allocate(self) -> None:
        """Set up the batch's counters and spaces; called at the end of a subclass's constructor."""
        n = self.num_envs
        self._return, self._length = np.zeros(n), np.zeros(n, dtype=np.int64)
        self.pictured = np.ones(n, bool)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, n)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, n)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Reset all worlds, or those of ``options["reset_mask"]``.  An int seeds world i with seed + i."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)), dtype=bool)
        if mask.shape != (self.num_envs,):
            raise problem("options.reset_mask", f"shape ({self.num_envs},)", str(mask.shape))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise problem("seed", f"{self.num_envs} seeds", len(seeds))
        self._begin(mask, list(seeds) if seeds is not None else None)
        return self._shown("in reset"), {}

    def _begin(self, mask: Array, seeds: list[int | None] | None = None) -> None:
        self._return[mask], self._length[mask] = 0.0, 0
        if self.noise is not None:
            self.noise.begin(mask, seeds)
        if self.domain is not None:
            self.domain.undo(mask)
        self._call("in reset", self._reset_worlds, mask, seeds)
        if self.domain is not None:
            self.domain.begin(mask, seeds)
        if self.costs is not None:
            self.costs.begin(mask)
        if self.stages is not None:
            self._call("in reset", self.stages.begin, mask)

    def _call(self, moment: str, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a subclass's method; what it raises becomes one line that names the environment."""
        try:
            return method(*arguments)
        except (InputError, NaNError, MemoryError, ModuleNotFoundError):
            raise
        except Exception as error:
            raise EnvironmentFault.of(self.name, moment, error) from error

    def _shown(self, moment: str, pictured: Array | None = None) -> Obs:
        """Return the observations of all worlds now, with pictures of those `pictured` (None: all).

        Raises NaNError where one is not finite.
        """
        self.pictured[:] = True if pictured is None or self.draw_ends == "all" else pictured
        found = self._noisy(self._call(moment, self._observe))
        for key, value in found.items() if isinstance(found, dict) else (("proprio", found),):
            self._check_finite(f"observation '{key}'", value)
        return found

    def _check_finite(self, what: str, values: Array) -> None:
        """Raise NaNError, naming the world and the number, where `values` (N, ...) are not finite."""
        if values.dtype.kind != "f" or np.isfinite(values.sum()) or np.isfinite(values).all():
            return  # the sum first: it takes a third of the time
        world, *number = np.argwhere(~np.isfinite(values))[0].tolist()
        where = f", number {'.'.join(map(str, number))}" if number else ""
        raise NaNError(
            f"{self.name}: the {what} of world {world}{where} is {values[world, *number]} at control step "
            f"{int(self._length[world])} of its episode"
        )

    def _reported(self, running: Array) -> dict[str, Array]:
        """Return what is reported of the control step that the worlds (N,) bool have just made, costs included."""
        infos: dict[str, Array] = self._call("in step", self._infos)
        if self.limits is not None:
            infos = infos | self.limits.report()
        if self.stages is not None:
            infos = infos | {"stage": self.stages.stage.copy(), "planned": self.stages.planned.copy()}
        return infos if self.costs is None else infos | self.costs.count(running, infos.get("cost"))

    def _planned(self, running: Array) -> Array:
        """Go on with plans where a stage is done; what is left of a chunk there was decided before the tool moved."""
        if self.stages is None:
            return running
        return running & ~self._call("in step", self.stages.advance, running.copy())

    def _disturbed(self, actions: Array, worlds: Array) -> Array:
        if self.domain is not None:
            self.domain.settle()
            actions = self.domain.on_actions(actions, worlds)
        return actions if self.noise is None else self.noise.on_actions(actions, worlds, self._length)

    def _noisy(self, observed: Obs) -> Obs:
        if self.domain is not None:
            observed = self.domain.on_observations(observed)
        return observed if self.noise is None else self.noise.on_observations(observed, self.pictured, self._length)

    def step(self, actions: Array) -> tuple[Obs, Array, Array, Array, dict[str, Any]]:
        """Make one control step in every world: `step_chunk` with H = 1."""
        return self.step_chunk(np.asarray(actions)[:, None])

    def step_chunk(
        self,
        actions: Array,
        *,
        active: Array | None = None,
        reset_done: bool = True,
        discount: float = 1.0,
        on_step: Callable[[Array, Array, dict[str, Array]], None] | None = None,
    ) -> tuple[Obs, Array, Array, Array, dict[str, Any]]:
        """Execute chunks (N, H, A) open loop; a world whose episode ends stands still for the rest of its chunk.

        Returns obs, reward (N,) = sum_i discount^i r_i over the steps made, terminated (N,), truncated (N,), info.
        Raises EnvironmentFault where the environment raises, NaNError where a number is not finite.
        Worlds outside `active` are not touched.  With `reset_done=False` ended worlds stay as they ended.
        `on_step(moved (N,), ended (N,), infos)` is called after each control step: frames, goals, pushes.
        """
        actions = np.asarray(actions)
        expected = (self.num_envs, *self.single_action_space.shape)
        if actions.ndim != 3 or (actions.shape[0], *actions.shape[2:]) != expected:
            raise problem("actions", f"shape ({self.num_envs}, H, {expected[1]})", str(actions.shape))
        self._check_finite("action", actions)
        running = np.ones(self.num_envs, bool) if active is None else np.array(active, dtype=bool)
        actions, begun = self._disturbed(actions, running), running.copy()
        reward, steps = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.int64)
        terminated, truncated, ended = (np.zeros(self.num_envs, bool) for _ in range(3))
        info: dict[str, Any] = {"rewards": np.zeros(actions.shape[:2])}
        for index in range(actions.shape[1]):
            if not running.any():
                break
            action = actions[:, index] if self.limits is None else self.limits.apply(actions[:, index])
            gained, fell, cut = self._call("in step", self._step_worlds, action, running)
            if not running.all():
                gained, fell, cut = np.where(running, gained, 0.0), running & fell, running & cut
            reward += gained if index == 0 or discount == 1.0 else gained * discount**index
            info["rewards"][:, index] = gained
            self._return += gained
            self._length += running
            steps += running
            terminated |= fell
            truncated |= np.greater(cut, fell)  # of bools: cut and not fell
            ended = terminated | truncated
            infos = self._reported(running)
            if on_step is not None:
                on_step(running.copy(), ended.copy(), infos)
            for key, value in infos.items():
                if key == "cost" or key.startswith("cost_"):
                    info[key] = info.get(key, 0.0) + np.where(running, value, 0.0)
                    continue
                if key in info:
                    value = np.where(running.reshape(-1, *[1] * (value.ndim - 1)), value, info[key])
                info[key] = value.copy()
            running = self._planned(np.greater(running, ended))
        self._check_finite("reward", reward)
        info |= {"episode_return": self._return.copy(), "episode_length": self._length.copy(), "steps": steps}
        info["_final_obs"] = ended
        if ended.any() and reset_done:
            info["final_obs"] = self._shown("in step", truncated & (self.draw_ends == "cut"))
            self._begin(ended)
            ended = np.zeros_like(ended)
        return self._shown("in step", begun & ~ended), reward, terminated, truncated, info
