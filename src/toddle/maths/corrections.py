"""Corrections in words: which motion is furthest off, and to which side (templates after Dual-Actor, 2509.13774)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["corrections", "one_hot"]

Array = NDArray[np.float64]


def corrections(wanted: Array, now: Array, least: float) -> NDArray[np.int64]:
    """Return what is said (N,) of motions `now` (N, D) where others (N, D) are wanted: 1 + 2 d for more of the motion d
    that is furthest off, 2 + 2 d for less of it, 0 where none is off by more than `least`."""
    away = wanted - now
    number = np.abs(away).argmax(1)
    size = away[np.arange(len(away)), number]
    said: NDArray[np.int64] = np.where(np.abs(size) > least, 1 + 2 * number + (size < 0.0), 0)
    return said


def one_hot(said: NDArray[np.int64], motions: int) -> NDArray[np.float32]:
    """Return what is said (N,) as (N, 2 D) numbers of which one is 1; all 0 where nothing is."""
    return np.eye(1 + 2 * motions, dtype=np.float32)[said][:, 1:]
