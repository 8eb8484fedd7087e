"""Recorded episodes as a model of the environment reads them: whole, failures too, each step with what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_dataset import LeRobotDataset

__all__ = ["Recordings", "read_recordings"]

Array = NDArray[np.int64]
LIMIT = 1.0 + 1e-3
"""Actions beyond -1 and 1, by more than rounding, have other units."""


@dataclass(frozen=True)
class Recordings:
    """N steps of E episodes, one after another; a step is a state, the action there, and what came of it."""

    state: Tensor
    """(N, O) float32 before the action."""
    action: Tensor
    """(N, A) float32 in [-1, 1]."""
    reward: Tensor
    """(N,) float32."""
    success: Tensor
    """(N,) bool, the task was solved by the end of the step."""
    terminated: Tensor
    """(N,) bool, the episode ended for good with it."""
    start: Tensor
    """(E,) int64, the first step of each episode."""
    held: Tensor
    """(E,) bool, the episode is held out of training."""

    def __len__(self) -> int:
        return len(self.state)

    @property
    def lengths(self) -> Tensor:
        """(E,) steps of each episode."""
        return torch.diff(self.start, append=torch.full_like(self.start[:1], len(self)))

    @property
    def episode(self) -> Tensor:
        """(N,) which episode each step is of."""
        return torch.repeat_interleave(torch.arange(len(self.start), device=self.start.device), self.lengths)

    def succeeded(self) -> Tensor:
        """(E,) bool."""
        return torch.zeros(len(self.start), dtype=torch.bool).index_put_(
            (self.episode[self.success],), torch.tensor(True)
        )

    def windows(self, rows: Tensor, before: int, after: int) -> tuple[Tensor, Tensor]:
        """Return the steps (B, before + after) around `rows` (B,), the last `before` up to and including each row and
        `after` that follow it, and which of them are of its own episode; the others repeat a step that is."""
        of = self.episode[rows]
        first, last = self.start[of][:, None], (self.start + self.lengths - 1)[of][:, None]
        wanted = rows[:, None] + torch.arange(1 - before, after + 1, device=rows.device)
        return wanted.clamp(first, last), (wanted >= first) & (wanted <= last)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, as it is stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def read_recordings(datasets: Sequence[LeRobotDataset], *, held_out: float, seed: int) -> Recordings:
    """Read whole episodes; a share `held_out` of them, drawn from `seed`, is marked as such (at least one, never all).

    Raises InputError where a column is missing, actions are not in [-1, 1], sizes differ or episodes are too few.
    """
    parts: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(Recordings)}
    steps = 0
    for dataset in datasets:
        for name in ("observation.state", "action", "next.reward", "next.success", "next.terminated"):
            if name not in dataset.features:
                raise InputError(
                    f"dataset: {dataset.path} has no column '{name}'; record it by toddle worldmodel record"
                )
        parts["state"].append(dataset.vector("observation.state").astype(np.float32))
        parts["action"].append(dataset.vector("action").astype(np.float32))
        parts["reward"].append(dataset.column("next.reward").astype(np.float32))
        parts["success"].append(dataset.column("next.success").astype(bool))
        parts["terminated"].append(dataset.column("next.terminated").astype(bool))
        parts["start"].append(np.array([steps + one.start for one in dataset.episodes], np.int64))
        steps += dataset.num_frames
        if (most := float(np.abs(parts["action"][-1]).max())) > LIMIT:
            raise problem(f"dataset: {dataset.path}: action", "numbers from -1 to 1", f"{most:g}")
    for name in ("state", "action"):
        sizes = sorted({part.shape[1] for part in parts[name]})
        if len(sizes) > 1:
            raise problem(f"dataset: {name}", "as many numbers in every dataset", ", ".join(map(str, sizes)))
    episodes = sum(map(len, parts["start"]))
    if episodes < 2:
        raise problem("dataset", "at least two episodes, one to hold out", episodes)
    held = np.zeros(episodes, bool)
    count = min(max(1, round(held_out * episodes)), episodes - 1)
    held[numpy_generator(seed, "held out").permutation(episodes)[:count]] = True
    parts["held"].append(held)
    return Recordings(**{name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()})
