"""What of a collector's state is of single worlds: how learners, workers and halves take it apart and put it together.

Everything that has a row for each world is of them, but for what stands below the names in `APART`.  A collector says
which entries of its state are where the worlds are (`of_worlds`); of these and of all others the same holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["APART", "merged_state", "own_state"]

APART = ("generator", "curriculum", "failures", "visited", "tasks", "task_draws")
"""Names below which nothing is of single worlds, though it may happen to have as many rows: the noise of all worlds;
which starts, goals and tasks are drawn, and from which states, that worlds have visited, episodes begin."""


def merged_state(parts: Sequence[Any], worlds: Sequence[int]) -> Any:
    """Return one state tree of several learners' (`worlds`: how many each has).

    What has a row for each world (an array, a tensor, a list) is put in a row; of all else the first one's is taken,
    for it is equal in all.
    """
    first = parts[0]
    if isinstance(first, dict):
        return {
            key: first[key] if key in APART else merged_state([part[key] for part in parts], worlds) for key in first
        }
    if isinstance(first, np.ndarray | Tensor | list) and [_rows(part) for part in parts] == list(worlds):
        if isinstance(first, list):
            return [row for part in parts for row in part]
        return torch.cat(list(parts)) if isinstance(first, Tensor) else np.concatenate(list(parts))
    return first


def own_state(tree: Any, own: range, total: int) -> Any:
    """Return the part of a state tree that is of the worlds `own` of all `total`: the inverse of `merged_state`."""
    if isinstance(tree, dict):
        return {key: value if key in APART else own_state(value, own, total) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | Tensor | list) and _rows(tree) == total:
        return tree[own.start : own.stop]
    return tree


def _rows(value: Any) -> int:
    """Return how many rows something has; of a number, none."""
    if isinstance(value, np.ndarray | Tensor):
        return int(value.shape[0]) if value.ndim else -1
    return len(value)
