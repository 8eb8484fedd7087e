"""Several tasks of one body behind one environment: each episode of a world is of one of them.

Every task is an environment with as many worlds as the mixture.  World i of the mixture is world i of the task that it
plays now; in the other tasks that world stands still and is neither stepped nor drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from toddle.core.errors import problem
from toddle.envs.base import Array, BatchedEnv, Obs

__all__ = ["MixtureEnv"]

ALIKE = ("body", "dt", "num_envs", "cameras", "single_observation_space", "single_action_space")
"""What the tasks of a mixture share."""


class MixtureEnv(BatchedEnv):
    """Worlds that play one of several tasks each.

    `choose(count)`, set by who gathers experience, says which tasks (count,) the next episodes of so many worlds are
    of, in the order of the worlds; without it a world takes them up in turn, or by its seed where it is given one.
    Infos are those that all tasks report, and `task` (N,), which of `tasks` the control step was of.
    """

    def __init__(self, parts: Sequence[BatchedEnv]) -> None:
        """Take over environments.  Raises InputError where they are not alike in what a policy sees and does."""
        first = parts[0]
        for part in parts[1:]:
            for name in ALIKE:
                own, other = getattr(first, name), getattr(part, name)
                if own != other:
                    wanted = f"tasks with the same {name}, to share the worlds ({first.name}: {own})"
                    raise problem("env", wanted, f"{part.name}: {other}")
        for name, part in (("cost", first.costs), ("randomise", first.domain), ("limits", first.limits)):
            if part is not None:  # they watch every control step of their own environment, which the tasks do not make
                raise problem(name, "none where tasks are drawn", "some", "take --tasks.kind apart")
        self.parts, self.tasks = list(parts), tuple(part.name for part in parts)
        self.name, self.body, self.dt, self.num_envs = " + ".join(self.tasks), first.body, first.dt, first.num_envs
        self.cameras, self.max_episode_steps = first.cameras, max(part.max_episode_steps for part in parts)
        self.single_observation_space, self.single_action_space = (
            first.single_observation_space,
            first.single_action_space,
        )
        self.task = np.arange(self.num_envs) % len(parts)
        self.noise = first.noise
        self.named = first.named if all(part.named == first.named for part in self.parts) else {}
        self._allocate()
        for part in self.parts:  # which count control steps by these
            part._return, part._length = self._return, self._length
        self._tell()

    def _tell(self) -> None:
        said = [part.instruction for part in self.parts]
        if all(sentences is not None for sentences in said):
            self.instruction = [said[task][world] for world, task in enumerate(self.task)]  # type: ignore[index]

    def _playing(self, worlds: Array) -> Iterator[tuple[BatchedEnv, Array]]:
        """Yield each task that some of the `worlds` (N,) bool play, and which."""
        for index, part in enumerate(self.parts):
            own = worlds & (self.task == index)
            if own.any():
                yield part, own

    def _merged(self, found: list[tuple[Array, Array]]) -> Array:
        """Return one array (N, ...) of the rows (N,) bool that each of the tasks' arrays is for."""
        merged = np.zeros_like(found[0][1])
        for own, values in found:
            merged[own] = values[own]
        return merged

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        worlds = np.flatnonzero(mask)
        if self.choose is not None:
            self.task[worlds] = self.choose(len(worlds))
        else:
            for world in worlds:
                seed = None if seeds is None else seeds[world]
                self.task[world] = (self.task[world] + 1 if seed is None else seed) % len(self.parts)
        for part, own in self._playing(mask):
            part._reset_worlds(own, seeds)
        self._tell()

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        reward, *ends = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for part, own in self._playing(active):
            for total, value in zip((reward, *ends), part._step_worlds(action, own), strict=True):
                total[own] = value[own]
        return reward, ends[0], ends[1]

    def _infos(self) -> dict[str, Array]:
        found = [(own, part._infos()) for part, own in self._playing(np.ones(self.num_envs, bool))]
        shared = set.intersection(*(set(infos) for _, infos in found))
        merged = {key: self._merged([(own, infos[key]) for own, infos in found]) for key in sorted(shared)}
        return merged | {"task": self.task.copy()}

    def _observe(self) -> Obs:
        found = []
        for part, own in self._playing(np.ones(self.num_envs, bool)):
            part.rendering, part.pictured[:] = self.rendering, self.pictured & own
            found.append((own, part._observe()))
        if not isinstance(found[0][1], dict):
            return self._merged(found)
        return {key: self._merged([(own, seen[key]) for own, seen in found]) for key in found[0][1]}

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Array:
        """Return (len(worlds), height, width, 3) uint8 pictures of each world in the task that it plays."""
        shown = [self.parts[self.task[world]].render_worlds([world], width, height, camera) for world in worlds]
        return np.concatenate(shown)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the tasks' environments."""
        for part in self.parts:
            part.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the tasks' states, and which each world plays."""
        return super().state_dict() | {"task": self.task.copy(), "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.task[:] = np.asarray(state["task"])
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
        super().load_state_dict(state)
        self._tell()
