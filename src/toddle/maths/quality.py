"""How good demonstrations are, as numbers of one episode and of a set of episodes; `maths.smoothness` has the rest.

Arrays are (T, ...) over the steps of an episode, or (N, P, D): N episodes at P moments of equal phase (`resample`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

__all__ = [
    "crossings",
    "idle_share",
    "lag",
    "late_shift",
    "mode_count",
    "path_efficiency",
    "phase_deviation",
    "phase_variance",
    "saturated_share",
    "share_of_worse",
    "silhouette",
]

Array = NDArray[np.float64]
STRUCTURE = 0.7
"""Mean silhouette above which groups count as found: "strong structure" of Kaufman & Rousseeuw 1990.  Halves of one
even spread, such as goals along a line, have about 0.6."""


def path_efficiency(path: ArrayLike) -> float:
    """Return the straight way from the first to the last point of a path (T, D), as a share of the way gone.

    1 is straight; NaN where nothing moved.
    """
    points = np.asarray(path, dtype=np.float64)
    gone = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    return float(np.linalg.norm(points[-1] - points[0]) / gone) if gone > 0.0 else float("nan")


def idle_share(speed: ArrayLike, share: float = 0.05) -> float:
    """Return the share of steps at which a speed (T,) is below `share` of its 95 % quantile; 1 where nothing moved."""
    values = np.abs(np.asarray(speed, dtype=np.float64))
    high = np.quantile(values, 0.95)
    return float((values < share * high).mean()) if high > 0.0 else 1.0


def saturated_share(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Return the share of the numbers of actions (T, A) that lie at a bound `low` or `high` (A,), to 1e-6 of the range.

    A number whose range is 0 is left out; NaN where all are.
    """
    values, below, above = (np.asarray(each, dtype=np.float64) for each in (actions, low, high))
    moving = above > below
    if not moving.any():
        return float("nan")
    values, below, above = values[:, moving], below[moving], above[moving]
    near = 1e-6 * (above - below)
    return float(((values <= below + near) | (values >= above - near)).mean())


def crossings(values: ArrayLike, middle: float) -> int:
    """Return how often values (T,) change sides of `middle`: openings and closings of a gripper."""
    side = np.asarray(values, dtype=np.float64) > middle
    return int((side[1:] != side[:-1]).sum())


def phase_variance(profiles: ArrayLike) -> Array:
    """Return the variance over episodes (N, P, D) at each phase, the mean over dimensions: (P,).

    Source: the action variance of diffusion RL's data (S1, figure 7).
    """
    return np.asarray(np.asarray(profiles, dtype=np.float64).var(axis=0).mean(axis=-1))


def phase_deviation(profiles: ArrayLike) -> Array:
    """Return each episode's squared distance from the mean of all at the same phase, (N, P, D) -> (N,).

    Its mean over episodes is the mean of `phase_variance` over phases.
    """
    values = np.asarray(profiles, dtype=np.float64)
    return np.asarray(((values - values.mean(axis=0)) ** 2).mean(axis=(1, 2)))


def silhouette(distances: ArrayLike, groups: ArrayLike) -> float:
    """Return the mean silhouette of groups (N,) under distances (N, N): (b - a) / max(a, b), 0 for a group of one.

    a: mean distance to the own group; b: to the nearest other.  Source: Rousseeuw 1987.
    """
    between, labels = np.asarray(distances, dtype=np.float64), np.asarray(groups)
    names, where = np.unique(labels, return_inverse=True)
    members = where[None] == np.arange(len(names))[:, None]  # (G, N)
    count = members.sum(axis=1)
    total = between @ members.T  # (N, G)
    rows = np.arange(len(labels))
    own = total[rows, where] / np.maximum(1, count[where] - 1)
    mean = total / count
    mean[rows, where] = np.inf
    other = mean.min(axis=1)
    size = np.maximum(own, other)
    value = np.divide(other - own, size, out=np.zeros(len(labels)), where=size > 0)
    return float(np.where(count[where] > 1, value, 0.0).mean())


def mode_count(distances: ArrayLike, most: int = 6) -> int:
    """Return into how many bundles N paths fall by their distances (N, N): 1 where they do not fall apart.

    Average linkage cut into 2 to `most` groups; the cut of the largest mean silhouette counts if that is above
    STRUCTURE.  Groups of a single path are outliers and no bundle.
    """
    between = np.asarray(distances, dtype=np.float64)
    if len(between) < 4:
        return 1
    tree = hierarchy.linkage(squareform(between, checks=False), method="average")
    cuts = [hierarchy.fcluster(tree, k, criterion="maxclust") for k in range(2, min(most, len(between) - 1) + 1)]
    values = [silhouette(between, cut) if cut.max() > 1 else 0.0 for cut in cuts]
    best = int(np.argmax(values))
    if values[best] <= STRUCTURE:
        return 1
    return max(1, int((np.bincount(cuts[best]) > 1).sum()))


def share_of_worse(values: ArrayLike, larger_is_worse: bool) -> Array:
    """Return for each of N values the share of the others that are worse, an equal one as half: (N,) in [0, 1].

    NaN stays NaN and is no other; a value that is alone has 0.5.
    """
    numbers = np.asarray(values, dtype=np.float64)
    result = np.full(len(numbers), np.nan)
    known = np.flatnonzero(np.isfinite(numbers))
    own = numbers[known] if larger_is_worse else -numbers[known]
    order = np.sort(own)
    below, through = np.searchsorted(order, own, side="left"), np.searchsorted(order, own, side="right")
    others = len(own) - 1
    result[known] = (len(own) - through + 0.5 * (through - below - 1)) / others if others else 0.5
    return result


def late_shift(values: ArrayLike) -> tuple[Array, Array]:
    """Return how far the mean of the last third of N episodes' values (N, D) lies from the first third's, and that in
    standard errors, each (D,).  Fewer than 6 episodes, or no scatter: NaN standard errors.
    """
    numbers = np.asarray(values, dtype=np.float64)
    third = len(numbers) // 3
    if third < 2:
        return np.full(numbers.shape[1], np.nan), np.full(numbers.shape[1], np.nan)
    first, last = numbers[:third], numbers[-third:]
    shift = last.mean(axis=0) - first.mean(axis=0)
    error = np.sqrt((first.var(axis=0, ddof=1) + last.var(axis=0, ddof=1)) / third)
    return shift, np.divide(shift, error, out=np.full(len(shift), np.nan), where=error > 0)


def lag(change: ArrayLike, motion: ArrayLike, most: int) -> tuple[int, float, float]:
    """Return by how many steps `change` (T,) follows `motion` (T,), the correlation there, and that without a lag.

    Every lag from 0 to `most` sees the same T - most steps of `change`.  Steps without scatter correlate by 0.
    """
    seen, moved = np.asarray(change, dtype=np.float64), np.asarray(motion, dtype=np.float64)
    found = np.zeros(most + 1)
    if len(seen) > most + 2:
        for by in range(most + 1):
            a, b = seen[most:], moved[most - by : len(moved) - by]
            spread = a.std() * b.std()
            found[by] = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-12 else 0.0
    best = int(np.argmax(found))
    return best, float(found[best]), float(found[0])
