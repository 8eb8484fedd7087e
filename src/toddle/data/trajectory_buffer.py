"""Whole trajectories of a task in fixed arrays, grouped by the mode they belong to (DDiffPG's memory).

A slot holds one trajectory of at most `longest` steps.  Every step keeps two target actions, one for the exploration
group and one for its own mode, which the learner improves in place.  Distances between paths are computed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.memory import check_memory
from toddle.maths.trajectories import dtw, resample

__all__ = ["FAILED", "Batch", "TrajectoryBuffer"]

Array = NDArray[Any]
Batch = dict[str, Tensor]
FAILED = -1
"""Mode of a trajectory that has not been assigned to one."""
PATH_POINTS = 24


class TrajectoryBuffer:
    """Slots (C, longest, ...) of steps.  `mode[slot]` is the group of a trajectory, FAILED while it has none."""

    def __init__(self, capacity: int, longest: int, observation: int, action: int, path: tuple[int, ...]) -> None:
        """Allocate; `path` names the observation's columns that make up the path (a position)."""
        if capacity < 2 or longest < 1:
            raise problem("capacity, longest", "at least 2 trajectories of at least 1 step", f"{capacity}, {longest}")
        size = 4 * capacity * longest * (2 * observation + 3 * action + 2) + 8 * capacity**2
        check_memory(size, f"a memory of {capacity:,} trajectories", "take a smaller capacity")
        self.capacity, self.longest, self.columns = capacity, longest, list(path)
        self.steps: dict[str, Array] = {
            "observation": np.zeros((capacity, longest, observation), np.float32),
            "next_observation": np.zeros((capacity, longest, observation), np.float32),
            "action": np.zeros((capacity, longest, action), np.float32),
            "explore_target": np.zeros((capacity, longest, action), np.float32),
            "mode_target": np.zeros((capacity, longest, action), np.float32),
            "reward": np.zeros((capacity, longest), np.float32),
            "alive": np.zeros((capacity, longest), np.float32),  # 0 where the step ended the episode by termination
        }
        self.length = np.zeros(capacity, np.int64)
        self.success = np.zeros(capacity, bool)
        self.mode = np.full(capacity, FAILED, np.int64)
        self.born = np.full(capacity, -1, np.int64)  # order of arrival; -1: empty
        self.paths = np.zeros((capacity, PATH_POINTS, len(path)))
        self.distances = np.full((capacity, capacity), np.nan)
        self.count = 0

    def add(self, observations: Array, actions: Array, rewards: Array, *, success: bool, terminated: bool) -> int:
        """Store a trajectory: observations (T + 1, O), actions (T, A), rewards (T,).  Returns its slot."""
        steps = len(actions)
        if steps > self.longest:
            raise problem("trajectory", f"at most {self.longest} steps", steps)
        slot = self._free_slot()
        self.steps["observation"][slot, :steps] = observations[:-1]
        self.steps["next_observation"][slot, :steps] = observations[1:]
        for name in ("action", "explore_target", "mode_target"):
            self.steps[name][slot, :steps] = actions
        self.steps["reward"][slot, :steps] = rewards
        self.steps["alive"][slot, :steps] = 1.0
        self.steps["alive"][slot, steps - 1] = float(not terminated)
        self.length[slot], self.success[slot], self.mode[slot] = steps, success, FAILED
        self.paths[slot] = resample(np.asarray(observations, np.float64)[:, self.columns], PATH_POINTS)
        self.distances[slot], self.distances[:, slot] = np.nan, np.nan
        self.born[slot] = self.count
        self.count += 1
        return slot

    def _free_slot(self) -> int:
        """Return an empty slot, else the oldest failure's while failures hold half the memory, else the oldest."""
        failures = np.flatnonzero((self.born >= 0) & ~self.success)
        if self.born.min() >= 0 and 2 * len(failures) >= self.capacity:
            return int(failures[self.born[failures].argmin()])
        return int(self.born.argmin())

    def filled(self) -> NDArray[np.int64]:
        """Return the slots that hold a trajectory."""
        return np.flatnonzero(self.born >= 0)

    def drop(self, slots: NDArray[np.int64]) -> None:
        """Empty slots."""
        self.born[slots], self.length[slots], self.success[slots], self.mode[slots] = -1, 0, False, FAILED

    def distance(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
        """Return DTW distances (rows, columns) of slots, from the cache where known."""
        for i in rows:
            for j in columns[np.isnan(self.distances[i, columns])]:
                self.distances[i, j] = self.distances[j, i] = dtw(self.paths[i], self.paths[j])
        return self.distances[np.ix_(rows, columns)]

    def sample(
        self, slots: NDArray[np.int64], size: int, generator: np.random.Generator, *, winners: float = 0.0
    ) -> tuple[Batch, Array]:
        """Draw `size` steps of these trajectories uniformly, with their places (size, 2) for `write`.

        `winners`: share that comes from the successful ones among them, where there are any.
        """
        won = slots[self.success[slots]]
        rich = round(winners * size) if len(won) else 0
        places = np.concatenate([self._places(won, rich, generator), self._places(slots, size - rich, generator)])
        batch = {name: torch.from_numpy(array[places[:, 0], places[:, 1]]) for name, array in self.steps.items()}
        return batch, places

    def _places(self, slots: NDArray[np.int64], size: int, generator: np.random.Generator) -> Array:
        if size == 0:
            return np.zeros((0, 2), np.int64)
        lengths = self.length[slots]
        ends = np.cumsum(lengths)
        flat = generator.integers(0, ends[-1], size)
        which = np.searchsorted(ends, flat, side="right")
        return np.stack([slots[which], flat - (ends[which] - lengths[which])], 1)

    def write(self, name: str, places: Array, values: Tensor) -> None:
        """Write rows of a step array back."""
        self.steps[name][places[:, 0], places[:, 1]] = values.cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """Return everything."""
        names = ("length", "success", "mode", "born", "paths", "distances")
        arrays = {name: getattr(self, name).copy() for name in names}
        return {"steps": {k: v.copy() for k, v in self.steps.items()}, "arrays": arrays, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name, array in state["steps"].items():
            self.steps[name][...] = np.asarray(array)
        for name, array in state["arrays"].items():
            getattr(self, name)[...] = np.asarray(array)
        self.count = int(state["count"])
