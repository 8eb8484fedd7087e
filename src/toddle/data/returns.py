"""What followed every row of a dataset: the discounted return from there to the end of its episode."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.maths.value_targets import returns_to_go

__all__ = ["row_returns"]


def row_returns(dataset: LeRobotDataset, by: Literal["success", "reward"], discount: float) -> NDArray[np.float64]:
    """Return (N,): by success discount^(rows until the first success of the episode), 1 from there on and 0 in episodes
    without; by reward the discounted sum of `next.reward` to the episode's end.

    Raises InputError where the column is missing.
    """
    name = f"next.{by}"
    if name not in dataset.features:
        raise problem(f"weigh.by {by}", f"a column {name} in {dataset.path}", ", ".join(dataset.features))
    values, found = dataset.column(name).astype(np.float64), np.zeros(dataset.num_frames)
    for episode in dataset.episodes:
        own = values[episode.start : episode.stop]
        if by == "success":
            won = np.flatnonzero(own)
            if len(won):
                found[episode.start : episode.stop] = discount ** np.maximum(won[0] - np.arange(len(own)), 0)
            continue
        found[episode.start : episode.stop] = returns_to_go(own, True, discount)  # of what was paid, ended or not
    return found
