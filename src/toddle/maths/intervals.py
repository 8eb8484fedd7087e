"""Intervals and tests for few runs: Wilson for one rate, t over seeds, two-way over seeds and tasks, exact sign flips.

Sources: Wilson 1927 (score interval); Newcombe 1998 (difference of two rates); Agresti & Min 2005, "Simple improved
confidence intervals for comparing matched proportions"; Welch 1947 (unequal variances); Satterthwaite 1946 (degrees of
freedom); Cochran 1977, section 6.4 (ratio estimator); Fisher 1935 (randomisation).  Everything is float64.  A bootstrap
has no place here: with three seeds its "95 %" covered 75 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from toddle.core.errors import problem
from toddle.core.seeding import numpy_generator

__all__ = [
    "Interval",
    "difference_of_shares",
    "matched_interval",
    "ratio_interval",
    "sign_flip_p",
    "t_interval",
    "t_p",
    "welch_interval",
    "wilson_interval",
]

Array = NDArray[np.float64]
EXACT = 16
"""Up to so many units all sign flips are counted."""


class Interval(NamedTuple):
    """An estimate with its confidence interval; infinite where one unit alone says nothing of the spread."""

    value: float
    low: float
    high: float


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


def difference_of_shares(first: int, trials: int, second: int, others: int, level: float = 0.95) -> Interval:
    """Return first / trials - second / others with Newcombe's interval from two score intervals.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    a, b = wilson_interval(first, trials, level), wilson_interval(second, others, level)
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    return Interval(gap, low, gap + math.hypot(a.high - a.value, b.value - b.low))


def _units(values: ArrayLike, name: str = "values") -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size < 1:
        raise problem(name, "at least one unit: shape (seeds,) or (seeds, tasks)", str(array.shape))
    if not np.isfinite(array).all():
        raise problem(name, "finite numbers", "NaN or infinity")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _error(units: Array) -> tuple[float, float]:
    """Return the standard error of the mean of (S,) or (S, K) units and its degrees of freedom.

    Two-way: seeds and tasks are both drawn from many, y = mu + seed + task + rest, so that
    Var(mean) = (E[MS_seeds] + E[MS_tasks] - E[MS_rest]) / (S K).  Half of MS_rest is taken off, and never so much that
    less than one of the others is left: simulated with 3 to 12 seeds and 4 to 6 tasks this covers 94 to 97 % at
    Satterthwaite's degrees of freedom, all of it 93 to 96, none of it 95 to 98.
    """
    seeds = len(units)
    if seeds == 1:
        return math.inf, 1.0
    if units.ndim == 1:
        return float(units.std(ddof=1)) / math.sqrt(seeds), seeds - 1.0
    tasks = units.shape[1]
    of_seeds, of_tasks = tasks * units.mean(1).var(ddof=1), seeds * units.mean(0).var(ddof=1)
    total = of_seeds + of_tasks
    if total == 0.0:
        return 0.0, 1.0
    freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_tasks**2 / (tasks - 1))
    rest = units - units.mean(1, keepdims=True) - units.mean(0) + units.mean()
    of_rest = (rest**2).sum() / ((seeds - 1) * (tasks - 1))
    return math.sqrt(max(total - 0.5 * of_rest, of_seeds, of_tasks) / (seeds * tasks)), float(freedom)


def _around(value: float, error: float, freedom: float, level: float) -> Interval:
    half = math.inf if math.isinf(error) else float(stdtrit(freedom, 0.5 + level / 2.0)) * error
    return Interval(value, value - half, value + half)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent units with Student's interval.

    values: (S,) one number a seed; or (S, K) a seed and task, when the interval is for new seeds and new tasks.
    Whatever shares a seed (its episodes, say) must have been averaged before.  One seed gives an infinite interval.
    Raises InputError for no units or numbers that are not finite.
    """
    units = _units(values)
    return _around(float(units.mean()), *_error(units), level)


def t_p(values: ArrayLike, line: float = 0.0) -> float:
    """Return the one-sided p of "the mean is at most `line`", by the t of `t_interval`; 1 for one seed."""
    units = _units(values)
    error, freedom = _error(units)
    above = float(units.mean()) - line
    if math.isinf(error):
        return 1.0
    if error == 0.0:
        return 0.0 if above > 0.0 else 1.0
    return float(stdtr(freedom, -above / error))


def sign_flip_p(values: ArrayLike, line: float = 0.0, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the one-sided p of "units are symmetric about `line`", by flipping signs; it needs no normality.

    values: (S,) or (S, K): a seed's units are flipped together.  Exact up to 16 seeds that differ from the line, by
    drawing beyond.  It cannot fall below 2^-S.
    """
    rows = _units(values) - line
    rows = rows.mean(1) if rows.ndim == 2 else rows
    rows = rows[rows != 0.0]  # a flip does nothing to them
    if not len(rows):
        return 1.0
    slack = 1e-12 * np.abs(rows).sum()
    if len(rows) <= EXACT:
        flips = 1 - 2 * ((np.arange(2 ** len(rows))[:, None] >> np.arange(len(rows))) & 1)
        return float(np.mean(flips @ rows >= rows.sum() - slack))
    flips = numpy_generator(seed, "sign_flip").choice([-1.0, 1.0], size=(resamples, len(rows)))
    return float((1 + np.count_nonzero(flips @ rows >= rows.sum() - slack)) / (1 + resamples))


def welch_interval(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Return mean(first) - mean(second) of independent runs (S,), (S',) with Welch's interval."""
    sides = [_units(first, "first"), _units(second, "second")]
    value = float(sides[0].mean() - sides[1].mean())
    if min(len(side) for side in sides) == 1:
        return Interval(value, -math.inf, math.inf)
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    total = sum(parts)
    if total == 0.0:
        return Interval(value, value, value)
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    return _around(value, math.sqrt(total), freedom, level)


def matched_interval(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Return mean(first - second) of paired episodes (N,).

    Where both are 0 or 1 throughout, with Agresti & Min's interval (Wald's after half an episode more in each of the
    four cells), which keeps its level where all agree; otherwise with Student's.
    """
    a, b = _units(first, "first"), _units(second, "second")
    if a.shape != b.shape:
        raise problem("paired values", f"shape {a.shape} for both", str(b.shape))
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        return t_interval(a - b, level)
    gained, lost, count = float(((a - b) > 0).sum()), float(((a - b) < 0).sum()), len(a) + 2.0
    centre = (gained - lost) / count
    half = (
        NormalDist().inv_cdf(0.5 + level / 2.0) * math.sqrt(gained + lost + 1.0 - (gained - lost) ** 2 / count) / count
    )
    return Interval((gained - lost) / len(a), max(-1.0, centre - half), min(1.0, centre + half))


def ratio_interval(numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95) -> Interval:
    """Return sum(numerator) / sum(denominator) over independent units (N,), with the ratio estimator's t interval.

    For shares of things that come in clusters: goals reached of goals met, an episode being the unit.
    """
    top, bottom = _units(numerator, "numerator"), _units(denominator, "denominator")
    value = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return Interval(value, -math.inf, math.inf)
    error = float((top - value * bottom).std(ddof=1)) / math.sqrt(len(top)) / float(bottom.mean())
    return _around(value, error, len(top) - 1.0, level)
