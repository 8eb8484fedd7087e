"""Distances between paths and their grouping: dynamic time warping and average linkage (DDiffPG, arXiv 2406.00681)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["cluster_paths", "dtw", "mode_entropy", "resample"]

Array = NDArray[np.float64]


def resample(path: Array, points: int) -> Array:
    """Return `path` (T, D) at `points` equally spaced places along its time, (points, D), by linear interpolation."""
    at = np.linspace(0, len(path) - 1, points)
    return np.stack([np.interp(at, np.arange(len(path)), column) for column in path.T], 1)


@njit(cache=True)
def dtw(a: Array, b: Array) -> float:
    """Return the dynamic-time-warping distance of paths a (Ta, D) and b (Tb, D): the least sum of Euclidean steps."""
    rows, columns, size = a.shape[0], b.shape[0], a.shape[1]
    previous = np.full(columns + 1, np.inf)
    previous[0] = 0.0
    for i in range(rows):
        current = np.full(columns + 1, np.inf)
        for j in range(columns):
            square = 0.0
            for d in range(size):
                square += (a[i, d] - b[j, d]) ** 2
            best = min(previous[j], previous[j + 1], current[j])
            current[j + 1] = math.sqrt(square) + best
        previous = current
    return float(previous[columns])


def cluster_paths(distances: Array, *, share: float = 0.7, most: int = 10) -> NDArray[np.int64]:
    """Group N paths by average linkage of their distances (N, N), cut at `share` of the highest merge: labels (N,).

    More than `most` groups are taken as none at all (one group), as the paper does: the linkage found no structure.
    """
    count = len(distances)
    if count < 2:
        return np.zeros(count, dtype=np.int64)
    from scipy.cluster import hierarchy  # of the extra `sim`: what groups no paths does without
    from scipy.spatial.distance import squareform

    tree = hierarchy.linkage(squareform(distances, checks=False), method="average")
    labels = hierarchy.fcluster(tree, share * tree[-1, 2], criterion="distance") - 1
    return np.zeros(count, dtype=np.int64) if labels.max() >= most else labels.astype(np.int64)


def mode_entropy(modes: NDArray[np.int64]) -> float:
    """Return the entropy in bits of the modes that episodes ended in, (N,) labels."""
    share = np.unique(modes, return_counts=True)[1] / max(len(modes), 1)
    return float(-(share * np.log2(share)).sum()) + 0.0  # no negative zero
