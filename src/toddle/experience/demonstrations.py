"""Episodes of a scripted expert or of a policy, as rows of a dataset.

A row is one control step: what the actor saw before it (proprioception; a picture every `image_stride` rows) and the
action.  An expert may be disturbed (`noise`): the disturbed action moves the arm, the expert's own is recorded, so
that the data shows how to come back (DART, Laskey et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from toddle.core.errors import problem
from toddle.core.protocols import Acting
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.data.layout import Feature
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.actor import Actor

__all__ = [
    "Demonstration",
    "Demonstrator",
    "ExpertActor",
    "PolicyActor",
    "Witness",
    "check_success",
    "demonstrate",
    "row_features",
]

CORRELATION = 0.9
"""Of the disturbance from one control step to the next: pushes of about ten steps, not a tremble that averages out."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One episode: `columns` (T, ...), `images` camera -> (ceil(T / image_stride), 3, H, W) uint8."""

    seed: int
    task: str
    success: bool
    columns: dict[str, Array]
    images: dict[str, Array]

    @property
    def length(self) -> int:
        """Control steps."""
        return len(self.columns["action"])


class Demonstrator(Protocol):
    """Says what to record and what to do."""

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Begin episodes."""

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        """Return the actions to record and to execute at this control step, (N, A) each in the environment's bounds."""


class Witness(Protocol):
    """Notes more of every control step than the environment knows, and can end episodes."""

    @property
    def features(self) -> dict[str, Feature]:
        """Columns that it adds."""

    def note(self, info: dict[str, Any]) -> tuple[dict[str, Array], Array]:
        """Return its columns (N, ...) of the control step just made, and which episodes (N,) bool end here."""


class ExpertActor:
    """The environment's scripted expert, disturbed by correlated Gaussian noise of deviation `noise`.

    executed: what was done is recorded, not what the expert wanted.
    """

    def __init__(self, noise: float = 0.0, *, executed: bool = False) -> None:
        self.noise, self.executed = noise, executed
        self._generators: list[np.random.Generator] = []
        self._drift = np.zeros(0)

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Begin episodes."""
        self._generators = [numpy_generator(seed, "expert noise") for seed in seeds]
        self._drift = np.zeros((env.num_envs, *env.single_action_space.shape))

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        """Return the expert's actions (or what is executed), and the disturbed ones."""
        wanted = env.expert_action()
        if self.noise == 0.0:
            return wanted, wanted
        fresh = np.stack([generator.normal(size=wanted.shape[1:]) for generator in self._generators])
        self._drift = CORRELATION * self._drift + np.sqrt(1.0 - CORRELATION**2) * self.noise * fresh
        space = env.single_action_space
        disturbed = np.clip(wanted + self._drift, space.low, space.high).astype(np.float32)
        return disturbed if self.executed else wanted, disturbed


class PolicyActor:
    """A policy that decides every H control steps; what it drew is recorded as it was executed."""

    def __init__(self, policy: Acting, *, deterministic: bool = True, body: int = 0) -> None:
        self.policy, self.deterministic, self.body = policy, deterministic, body

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Begin episodes."""
        self._actor = Actor(env, body=self.body)
        self._actor.begin(self.policy)
        self._generator = torch_generator(seeds[0], "record")
        self._chunk: Array = np.zeros((env.num_envs, 0))
        self._next = 0

    def _decide(self, env: BatchedEnv) -> None:
        """Ask the policy for the next chunk."""
        with torch.no_grad():
            decision = self._actor.decide(
                self.policy, self._actor.observe(_see(env)), self._generator, deterministic=self.deterministic
            )
        self._chunk, self._next = self._actor.executable(decision), 0
        self._actor.note(np.zeros(env.num_envs, bool))

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        """Return the next action of the chunk; decide anew when it is used up."""
        if self._next == self._chunk.shape[1]:
            self._decide(env)
        action = self._chunk[:, self._next]
        self._next += 1
        return action, action


def _see(env: BatchedEnv) -> Any:
    """Return the observation with pictures."""
    env.rendering = True
    observation = env.current_observation()
    env.rendering = False
    return observation


def row_features(env: BatchedEnv) -> dict[str, Feature]:
    """Return the numeric columns of a dataset of this environment; the tool's pose where it has one, costs where they
    are counted."""
    spec = env.body_spec
    tool = {f"observation.{name}": Feature(size=value.shape[1]) for name, value in env.tool_pose().items()}
    return {
        "observation.state": Feature(size=spec.proprio),
        **tool,
        "action": Feature(size=spec.action),
        "next.reward": Feature(size=1),
        "next.done": Feature(size=1, dtype="bool"),
        "next.success": Feature(size=1, dtype="bool"),
        "next.terminated": Feature(size=1, dtype="bool"),  # it ended for good there, which a time limit does not
    } | ({} if env.costs is None else {"next.cost": Feature(size=1)})


class _Recording:
    """Rows of one world."""

    def __init__(self, features: dict[str, Feature]) -> None:
        self.features = features
        self.rows: dict[str, list[Any]] = {name: [] for name in features}
        self.pictures: list[Array] = []
        self.left: int | None = None  # control steps still to be made after success

    def finish(self, env: BatchedEnv, seed: int, task: str) -> Demonstration:
        columns = {name: np.asarray(values, dtype=self.features[name].dtype) for name, values in self.rows.items()}
        columns = {name: column[:, 0] if column.shape[1:] == (1,) else column for name, column in columns.items()}
        columns["next.done"][-1] = True
        pictures = np.stack(self.pictures) if self.pictures else np.zeros((0, 0))
        images = {camera: pictures[:, index] for index, camera in enumerate(env.cameras)}
        success = bool(columns["next.success"].any())
        return Demonstration(seed=seed, task=task, success=success, columns=columns, images=images)


def check_success(env: BatchedEnv, field: str, other: str) -> None:
    """Make a control step in an environment that has no episode under way; raise InputError, naming the setting that
    asks for successes and what it could be instead, where none is reported."""
    env.reset(seed=0)
    rest = np.zeros((env.num_envs, *env.single_action_space.shape))
    rest = np.clip(rest, env.single_action_space.low, env.single_action_space.high)
    if "success" not in env.step(rest)[-1]:
        raise problem(field, f"{other} with {env.name}, which reports no success", "successes")


def demonstrate(
    env: BatchedEnv,
    actor: Demonstrator,
    seeds: list[int],
    *,
    image_stride: int = 1,
    after_success: int = 8,
    witness: Witness | None = None,
) -> list[Demonstration]:
    """Play one episode a world (`seeds`: one each) and return them in the order of the seeds.

    An episode ends `after_success` control steps after its success, or where the environment or a witness ends it.
    """
    env.rendering = False
    features = row_features(env) | ({} if witness is None else witness.features)
    try:
        observation, _ = env.reset(seed=list(seeds))
        tasks = list(env.instruction or [env.name] * env.num_envs)
        actor.begin(env, seeds)
        recordings = [_Recording(features) for _ in seeds]
        active, step = np.ones(env.num_envs, bool), 0
        while active.any():
            pictures = _see(env)["images"] if env.cameras and step % image_stride == 0 else None
            recorded, executed = actor.act(env)
            before = {"observation.state": observation["proprio"] if isinstance(observation, dict) else observation}
            before |= {f"observation.{name}": value for name, value in env.tool_pose().items()}
            observation, reward, terminated, truncated, info = env.step_chunk(
                executed[:, None], active=active, reset_done=False
            )
            success = np.asarray(info.get("success", np.zeros(env.num_envs, bool)), dtype=bool)
            more, over = ({}, np.zeros(env.num_envs, bool)) if witness is None else witness.note(info)
            if env.limits is not None and recorded is executed:
                recorded = info["executed"]
            if env.costs is not None:
                more["next.cost"] = info["cost"]
            for world in np.flatnonzero(active):
                recording = recordings[world]
                row = {name: value[world] for name, value in (before | more).items()} | {
                    "action": recorded[world],
                    "next.reward": reward[world],
                    "next.done": False,
                    "next.success": success[world],
                    "next.terminated": terminated[world],
                }
                for name, values in recording.rows.items():
                    values.append(row[name])
                if pictures is not None:
                    recording.pictures.append(pictures[world])
                if success[world]:
                    recording.left = after_success if recording.left is None else recording.left - 1
                active[world] = not (terminated[world] or truncated[world] or over[world] or recording.left == 0)
            step += 1
    finally:
        env.rendering = True
    return [recording.finish(env, seed, task) for recording, seed, task in zip(recordings, seeds, tasks, strict=True)]
