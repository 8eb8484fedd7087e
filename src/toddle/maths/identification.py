"""Which parameters made these measurements: least squares in logarithms, and intervals by the profile likelihood.

    residuals r(theta), n of them, of one unknown deviation; theta > 0, searched within a box
    estimate   the least sum of squares: differential evolution (Storn and Price 1997), then Gauss-Newton in log theta
    interval   { theta_i : n ln(min SSE given theta_i / min SSE) <= n ln(1 + F(1, n - p) / (n - p)) }

The profile (Venzon and Moolgavkar 1988) follows a valley where two parameters can be exchanged for each other, and
reaches the edge of the box where a parameter does nothing, which a curvature at the optimum cannot say.  With the
quantile of F in place of chi square's the coverage is exact for a linear model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

__all__ = ["Identified", "Residuals", "identify"]

Array = NDArray[np.float64]
Residuals = Callable[[Array], Array]
"""(K, P) parameters -> (K, n) residuals."""
STEP = 0.02
"""Step of the finite differences, in logarithms: what touches and lets go is not smooth."""
LEAST = 1e-12
"""Mean square of residuals below which a fit counts as exact, relative to that of the box's middle."""
ROUNDS = 12
"""Generations of the search."""
SHARE = 0.5
"""A parameter is identified where its interval is less than this share of the box, in logarithms."""


class Identified(NamedTuple):
    """What is known of one parameter."""

    value: float
    low: float
    high: float
    """Ends of the interval of 95 %, at most those of the box."""
    identified: bool
    """Whether the interval is less than half of the box, in logarithms."""


def identify(
    residuals: Residuals, low: Sequence[float], high: Sequence[float], *, seed: int = 0, intervals: bool = True
) -> list[Identified]:
    """Return what the residuals say of each of P parameters, sought between `low` and `high` (P,), all above 0.

    intervals: whether these are sought too; else each is the box.
    """
    box = np.log(np.stack([low, high]).astype(float))
    best = _search(residuals, box, seed)
    if not intervals:
        return [Identified(math.exp(at), math.exp(low), math.exp(high), False) for at, low, high in zip(best, *box)]
    count, parameters = residuals(np.exp(best[None])).shape[1], box.shape[1]
    floor = LEAST * float(_squares(residuals, box.mean(0)[None])[0]) + 1e-300
    least = max(float(_squares(residuals, best[None])[0]), floor)
    freedom = max(count - parameters, 1)
    beyond = float(stats.f.ppf(0.95, 1, freedom)) / freedom
    allowed = least * (1.0 + beyond)
    slopes = _slopes(residuals, best, list(range(parameters)))
    variances = np.maximum(np.diag(np.linalg.pinv(slopes.T @ slopes)), 0.0)
    spread = np.sqrt(variances * least * beyond)  # half an interval, were it linear
    start = best.copy()

    def inside(index: int, at: float) -> bool:
        start[index] = at
        start[:] = _descend(residuals, start, box, (index,)) if parameters > 1 else start
        return bool(max(float(_squares(residuals, start[None])[0]), floor) <= allowed)

    found = []
    for index in range(parameters):
        ends = []
        for edge in box[:, index]:
            start[:] = best
            ends.append(_end(inside, index, best[index], edge, first=float(spread[index])))
        known = ends[1] - ends[0] < SHARE * (box[1, index] - box[0, index])
        found.append(Identified(math.exp(best[index]), math.exp(ends[0]), math.exp(ends[1]), bool(known)))
    return found


def _search(residuals: Residuals, box: Array, seed: int) -> Array:
    """Return where the least squares are (P,), by differential evolution over what no few residuals can rule (log of
    one plus their squares), and then by Gauss-Newton."""

    def cost(logs: Array) -> Array:
        found: Array = np.log1p(np.square(residuals(np.exp(logs.T)))).sum(1)
        return found

    evolved = optimize.differential_evolution(
        cost,
        list(box.T),
        popsize=16,
        maxiter=ROUNDS,
        tol=1e-3,
        init="sobol",
        polish=False,
        vectorized=True,
        updating="deferred",
        rng=seed,
    )
    descended = _descend(residuals, evolved.x, box, ())
    logs = np.stack([evolved.x, descended])
    return np.asarray(logs[int(np.argmin(_squares(residuals, logs)))])


def _squares(residuals: Residuals, logs: Array) -> Array:
    found: Array = np.square(residuals(np.exp(logs))).sum(1)
    return found


def _slopes(residuals: Residuals, logs: Array, free: list[int]) -> Array:
    """Return the derivatives (n, F) of the residuals at `logs` (P,) by the logarithms of the parameters `free`."""
    steps = STEP * np.eye(len(logs))[free]
    moved = residuals(np.exp(np.concatenate([logs + steps, logs - steps])))
    return np.asarray(((moved[: len(free)] - moved[len(free) :]) / (2.0 * STEP)).T)


def _descend(residuals: Residuals, start: Array, box: Array, held: tuple[int, ...]) -> Array:
    """Return the least squares from `start` (P,) within the box, with the parameters `held` where they are."""
    free = [index for index in range(len(start)) if index not in held]
    span = box[:, free]

    def full(logs: Array) -> Array:
        whole = start.copy()
        whole[free] = logs
        return whole

    begin = np.clip(start[free], span[0] + 1e-9, span[1] - 1e-9)
    solved = optimize.least_squares(
        lambda logs: residuals(np.exp(full(logs)[None]))[0],
        begin,
        jac=lambda logs: _slopes(residuals, full(logs), free),
        bounds=(span[0], span[1]),
        xtol=1e-5,
        ftol=1e-5,
        max_nfev=12,
    )
    return full(solved.x)


def _end(
    inside: Callable[[int, float], bool], index: int, value: float, edge: float, *, first: float, halvings: int = 4
) -> float:
    """Return where the profile leaves what is allowed, between the estimate and an edge of the box: from `first`, the
    distance at which it would were it linear, in steps that double, then by halves."""
    within, beyond, step = value, value, math.copysign(max(first, 1e-6), edge - value)
    while within == beyond:
        beyond = value + step if abs(step) < abs(edge - value) else edge
        if inside(index, beyond):
            if beyond == edge:
                return edge
            within, step = beyond, 2.0 * step
    for _ in range(halvings):
        middle = (within + beyond) / 2.0
        if inside(index, middle):
            within = middle
        else:
            beyond = middle
    return beyond
