"""How smooth a motion is: jerk, dimensionless jerk, spectral arc length, no-ops.

Sources: Hogan & Sternad 2009 (dimensionless jerk); Balasubramanian et al. 2015 (log dimensionless jerk, SPARC); Kim
et al. 2024, OpenVLA (no-op filter).  Jerk scales as dt^-6: bring all sources to one dt with `resample` first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toddle.core.errors import problem

__all__ = [
    "dimensionless_jerk",
    "log_dimensionless_jerk",
    "mean_squared_jerk",
    "no_op_count",
    "resample",
    "spectral_arc_length",
]

Array = NDArray[np.float64]


def _array(values: ArrayLike, name: str, ndim: int, least: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or len(array) < least:
        raise problem(name, f"{ndim} dimensions and at least {least} steps", f"shape {array.shape}")
    return array


def resample(path: ArrayLike, steps: int) -> Array:
    """Return `path` (T, D) interpolated linearly to `steps` moments of equal phase, its two ends kept."""
    values = _array(path, "path", 2, 1)
    old, new = np.linspace(0.0, 1.0, len(values)), np.linspace(0.0, 1.0, steps)
    return np.stack([np.interp(new, old, column) for column in values.T], axis=1)


def mean_squared_jerk(path: ArrayLike, dt: float) -> float:
    """Return mean ||d^3 p / dt^3||^2 of positions (T, D), T >= 4, `dt` seconds apart."""
    jerk = np.diff(_array(path, "path", 2, 4), 3, axis=0) / dt**3
    return float((jerk**2).sum(axis=1).mean())


def dimensionless_jerk(speed: ArrayLike, dt: float) -> float:
    """Return -(duration^3 / peak^2) * sum jerk^2 dt of speeds (T,), T >= 3; 0 is smoothest, no unit.

    A motion that never moves has no peak speed and raises InputError.
    """
    values = _array(speed, "speed", 1, 3)
    peak = np.abs(values).max()
    if peak == 0.0:
        raise problem("speed", "a motion that moves", "zero speed throughout")
    jerk = np.diff(values, 2) / dt**2
    return float(-((len(values) * dt) ** 3) / peak**2 * (jerk**2).sum() * dt)


def log_dimensionless_jerk(speed: ArrayLike, dt: float) -> float:
    """Return -ln |dimensionless jerk| of speeds (T,): larger is smoother (infinity for a constant speed)."""
    size = abs(dimensionless_jerk(speed, dt))
    return float("inf") if size == 0.0 else float(-np.log(size))


def spectral_arc_length(
    speed: ArrayLike, dt: float, *, pad: int = 4, cutoff: float = 10.0, threshold: float = 0.05
) -> float:
    """Return SPARC of speeds (T,): minus the arc length of the normalised spectrum up to `cutoff` Hz.

    The spectrum is cut between the first and the last bin of at least `threshold` of its peak.  Nearer 0 is smoother.
    """
    values = _array(speed, "speed", 1, 2)
    size = 2 ** (int(np.ceil(np.log2(len(values)))) + pad)
    spectrum = np.abs(np.fft.fft(values, size))
    if spectrum.max() == 0.0:
        raise problem("speed", "a motion that moves", "zero speed throughout")
    spectrum /= spectrum.max()
    frequency = np.arange(size) / (size * dt)
    kept = frequency <= cutoff
    spectrum, frequency = spectrum[kept], frequency[kept]
    loud = np.flatnonzero(spectrum >= threshold)
    if len(loud) < 2:
        return 0.0
    band = slice(loud[0], loud[-1] + 1)
    spectrum, frequency = spectrum[band], frequency[band]
    width = np.diff(frequency) / (frequency[-1] - frequency[0])
    return float(-np.sqrt(width**2 + np.diff(spectrum) ** 2).sum())


def no_op_count(actions: ArrayLike, threshold: float = 1e-4) -> int:
    """Return how many of the actions (T, A) move nothing: ||a[:-1]|| < threshold, gripper a[-1] as one step before.

    The first action has no gripper to compare with and counts by its motion alone (OpenVLA's rule).
    """
    values = _array(actions, "actions", 2, 1)
    still = np.linalg.norm(values[:, :-1], axis=1) < threshold
    same = np.concatenate([[True], values[1:, -1] == values[:-1, -1]])
    return int((still & same).sum())
