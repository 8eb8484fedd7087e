"""Where a demonstration gets on: steps that lead to a moment at which the hand has arrived and rests.

The labels of VLA-RL's robotic process reward model (Lu et al. 2025, arXiv 2505.18719), which are made without people:
an episode is split where a gripper opens or shuts; inside a segment the key frames are the local minima of the hand's
speed that are all but standing still; the steps that lead to a key frame are good ones.  The paper gives no numbers:
those of `ProgressConfig` are ours, for about 20 steps a second.

T steps, K grippers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, Positive, Share, Whole

__all__ = ["ProgressConfig", "gripper_segments", "hand_speed", "key_frames", "progress_labels"]

Array = NDArray[np.float64]
Segments = list[tuple[int, int]]
"""Steps [start, stop) of each segment; together all steps."""


@config
class ProgressConfig:
    """How progress is read off a demonstration."""

    change: Share = 0.5
    """A gripper has opened or shut when its opening moved by more than this share of its range."""
    hold: Count = 3
    """Steps that it must stay there."""
    still: Positive = 0.1
    """The hand rests below this share of the episode's median speed."""
    gap: Count = 8
    """Fewest steps from one key frame to the next; of two that are closer the slower one stays."""
    skip: Whole = 5
    """Steps at the beginning of an episode in which no key frame is looked for."""
    window: Count = 5
    """Steps before a key frame that are labelled as leading to it."""


def _rows(values: ArrayLike, name: str, ndim: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or not array.size:
        raise problem(name, f"{ndim} dimensions and at least one step", f"shape {array.shape}")
    if not np.isfinite(array).all():
        raise problem(name, "finite numbers", "NaN or infinity")
    return array


def gripper_segments(opening: ArrayLike, size: ArrayLike, *, change: float = 0.5, hold: int = 3) -> Segments:
    """Split an episode where one of its grippers opens or shuts.

    opening: (T, K) in any unit; K = 0 where there is no gripper.  size: (K,) the range of each, in its unit; a range of
    0 is that of a gripper which never moves.  A gripper shuts when it is lower, by more than `change` of its range and
    for `hold` steps, than the highest it was since it last opened; a slow movement is one change, not several.
    Raises InputError where something is not finite or the sizes do not match.
    """
    rows = np.asarray(opening, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise problem("opening", "shape (steps, grippers), at least one step", f"shape {rows.shape}")
    spans = np.asarray(size, dtype=np.float64)
    if spans.shape != rows.shape[1:] or not np.isfinite(rows).all() or not (np.isfinite(spans) & (spans >= 0)).all():
        raise problem(
            "opening", f"finite numbers, and {rows.shape[1]} ranges of at least 0", f"{spans.shape[0]} ranges"
        )
    cuts = {0, len(rows)}
    for column, span in zip(rows.T, spans, strict=True):
        if span > 0:
            cuts.update(_changes(column, change * span, hold))
    return list(pairwise(sorted(cuts)))


def _changes(opening: Array, least: float, hold: int) -> list[int]:
    """Return the steps at which the opening (T,) has turned by more than `least`; what is not held counts nowhere."""
    found = []
    before = 0  # the direction of the last change: a further movement in it is the same one
    low, high = np.inf, -np.inf  # held since then
    for step in range(len(opening) - hold + 1):
        ahead = opening[step : step + hold]
        least_now, most_now = ahead.min(), ahead.max()
        low, high = min(low, most_now), max(high, least_now)
        for way, turned in ((1, least_now - low > least), (-1, high - most_now > least)):
            if turned and way != before:
                found.append(step)
                low, high, before = most_now, least_now, way
    return found


def hand_speed(path: ArrayLike) -> Array:
    """Return how far the hand (T, 3) moves from each step to the next: (T,), in the path's unit a step.

    The last step has the speed of the one before it; a single step has speed 0.
    """
    rows = _rows(path, "path", 2)
    moved = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    return np.append(moved, moved[-1] if len(moved) else 0.0)


def key_frames(
    speed: ArrayLike, segments: Segments, *, still: float = 0.1, gap: int = 8, skip: int = 5
) -> NDArray[np.int64]:
    """Return the steps at which the hand has arrived, in order.

    Those are local minima of the speed (T,) inside a segment that lie below `still` of its median over the episode: of
    a rest the first step.  The episode's first `skip` steps have none (the hand has not set off), nor has a rest with
    which a segment begins; its end counts as rising, since an arrival at it is one.  Where the median is 0 nothing is
    below it.
    """
    values = _rows(speed, "speed", 1)
    limit = still * float(np.median(values))
    candidates = []
    for start, stop in segments:
        within = values[start:stop]
        first = np.flatnonzero(np.diff(within, prepend=np.nan) != 0.0)  # of each run of equal speeds
        level = within[first]
        falls = np.append(-np.inf, level[:-1]) > level
        rises = np.append(level[1:], np.inf) > level
        candidates += [start + step for step in first[falls & rises & (level < limit)] if start + step >= skip]
    kept: list[int] = []
    for step in sorted(candidates, key=lambda step: (values[step], step)):
        if all(abs(step - other) >= gap for other in kept):
            kept.append(step)
    return np.array(sorted(kept), dtype=np.int64)


def progress_labels(length: int, keys: ArrayLike, window: int = 5) -> NDArray[np.bool_]:
    """Return (length,) bool: True at the last `window` steps before each of the key frames."""
    labels = np.zeros(length, bool)
    for key in np.asarray(keys, dtype=np.int64):
        labels[max(0, key - window) : key] = True
    return labels
