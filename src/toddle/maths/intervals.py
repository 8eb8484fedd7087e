"""Intervals and tests for few runs: Wilson, bootstrap over seeds, interquartile mean, paired comparison.

Sources: Wilson 1927 (score interval); Efron & Tibshirani 1993, chapters 13 and 16 (percentile bootstrap, bootstrap
test); Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice" (interquartile mean, probability of
improvement).  Everything is float64; the random resamples come from a seed, so a page is rebuilt number for number.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toddle.core.errors import problem
from toddle.core.seeding import numpy_generator

__all__ = [
    "Interval",
    "bootstrap_interval",
    "interquartile_mean",
    "mean",
    "paired_bootstrap_interval",
    "paired_bootstrap_p",
    "probability_of_improvement",
    "sign_flip_p",
    "wilson_interval",
]

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Reduces the last axis of an array (..., n)."""


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


def mean(values: Array) -> Array:
    """Return the mean over the last axis."""
    return np.asarray(values.mean(axis=-1))


def interquartile_mean(values: ArrayLike) -> Array:
    """Return the mean of the middle half of the last axis, the values at its borders weighted by their share.

    Equals `scipy.stats.trim_mean(x, 0.25)` (Agarwal et al.) where n is a multiple of 4; for other n that function
    drops fewer than a quarter (none of 3 seeds), this one exactly a quarter.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    edges = np.arange(n + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0.0, None)
    return np.asarray((ordered * weight).sum(axis=-1) / weight.sum())


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Return successes / trials with Wilson's score interval.  Raises InputError where the counts are impossible."""
    if trials < 1 or not 0 <= successes <= trials:
        raise problem("successes of trials", "0 <= successes <= trials, trials >= 1", f"{successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    rate = successes / trials
    scale = 1.0 + z * z / trials
    centre = (rate + z * z / (2.0 * trials)) / scale
    half = z / scale * np.sqrt(rate * (1.0 - rate) / trials + z * z / (4.0 * trials**2))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return Interval(rate, low, high)


def _rows(values: ArrayLike, name: str = "values") -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[0] < 1:
        raise problem(name, "at least one value", str(array.shape))
    if not np.isfinite(array).all():
        raise problem(name, "finite numbers", "NaN or infinity")
    return array.reshape(len(array), -1)


def _resampled(rows: Array, statistic: Statistic, resamples: int, seed: int) -> Array:
    """Return (R,) statistics of resamples with replacement over the first axis of rows (S, M)."""
    generator = numpy_generator(seed, "bootstrap")
    parts = []
    size = max(1, int(4e6 // rows.size))  # bounds the memory of one block to 32 MB
    for start in range(0, resamples, size):
        index = generator.integers(0, len(rows), size=(min(size, resamples - start), len(rows)))
        parts.append(statistic(rows[index].reshape(len(index), -1)))
    return np.concatenate(parts)


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Statistic = mean,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of `values` (S,) or (S, ...) with its percentile bootstrap interval over the first axis.

    The first axis is what was drawn independently (seeds, or episodes): whole rows are drawn, what stands in a row
    stays together.  `statistic` reduces the last axis.  One row gives an interval of no width: no evidence of spread.
    """
    rows = _rows(values)
    draws = _resampled(rows, statistic, resamples, seed)
    low, high = np.quantile(draws, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Interval(float(statistic(rows.reshape(-1))), float(low), float(high))


def _differences(a: ArrayLike, b: ArrayLike) -> Array:
    first, second = _rows(a, "first candidate"), _rows(b, "second candidate")
    if first.shape != second.shape:
        raise problem("paired values", f"shape {first.shape} for both", str(second.shape))
    return first - second


def paired_bootstrap_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Return mean(a - b) with its percentile bootstrap interval; a[i] and b[i] (S, ...) share seed i."""
    return bootstrap_interval(_differences(a, b), level=level, resamples=resamples, seed=seed)


def paired_bootstrap_p(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the one-sided p of "mean(a - b) <= 0" by the bootstrap: (1 + #{mean* <= 0}) / (1 + resamples).

    With very few pairs that all have one sign it is too sure (3 of 3 gives the smallest p there is); report
    `sign_flip_p` beside it, which cannot fall below 2^-S.
    """
    draws = _resampled(_differences(a, b), mean, resamples, seed)
    return float((1 + np.count_nonzero(draws <= 0.0)) / (1 + resamples))


def sign_flip_p(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the one-sided p of "a - b is symmetric about 0" by flipping signs of rows: exact up to 12 pairs."""
    rows = _differences(a, b).mean(axis=1)
    count = len(rows)
    if count <= 12:
        flips = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float(np.mean((flips * rows).mean(axis=1) >= rows.mean() - 1e-12))
    flips = numpy_generator(seed, "sign_flip").choice([-1.0, 1.0], size=(resamples, count))
    return float((1 + np.count_nonzero((flips * rows).mean(axis=1) >= rows.mean() - 1e-12)) / (1 + resamples))


def probability_of_improvement(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """Return P(A > B) + P(A = B) / 2 for independent runs a (S,), b (S',), with a bootstrap interval over runs."""
    first, second = _rows(a, "first candidate")[:, 0], _rows(b, "second candidate")[:, 0]
    wins = 0.5 * (np.sign(first[:, None] - second[None, :]) + 1.0)
    generator = numpy_generator(seed, "improvement")
    rows = generator.integers(0, len(first), (resamples, len(first), 1))
    columns = generator.integers(0, len(second), (resamples, 1, len(second)))
    draws = wins[rows, columns].mean(axis=(1, 2))
    low, high = np.quantile(draws, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Interval(float(wins.mean()), float(low), float(high))
