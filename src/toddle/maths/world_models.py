"""What a model of an environment is worth: its error against doing nothing, its doubt against its error, its alarms.

Sources: disagreement of an ensemble (Chua et al. 2018, arXiv 1805.12114; MOPO, Yu et al. 2020, arXiv 2005.13239);
thresholds by split conformal prediction (Vovk et al. 2005); the copy baseline is the forecaster "nothing changes".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from toddle.core.errors import problem
from toddle.maths.ranks import spearman

__all__ = [
    "Calibration",
    "Firing",
    "alarm_level",
    "calibration",
    "counted",
    "disagreement",
    "error_over_copy",
    "firing_level",
    "firing_worth",
]

Array = NDArray[np.float64]


class Firing(NamedTuple):
    """A level at which a score counts as a yes, and what it is worth there."""

    level: float
    precision: float
    recall: float
    f1: float


class Calibration(NamedTuple):
    """How an ensemble's spread goes with its error."""

    rank: float
    """Spearman's rank correlation of spread and error."""
    scale: float
    """sqrt(mean (error / spread)^2): spreads times this have the right size on average."""
    coverage: float
    """Share of errors within 1.645 scaled spreads; of Gaussian errors it would be 0.90."""


def counted(variance: Tensor, felt: int) -> Tensor:
    """Return (D,) how much each number of a state counts: 1 for those of the first `felt` that vary (D,), and for the
    others, components of what is seen, their share of what is seen, which counts twice as much as what is felt."""
    weight = (variance > 0).to(variance.dtype)
    seen = variance[felt:]
    if len(seen):
        weight[felt:] = 2.0 * weight[:felt].sum().clamp_min(1.0) * seen / seen.sum().clamp_min(1e-12)
    return weight


def disagreement(predictions: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return (B,) root mean square over numbers, which count by `weight` (D,), of the members' deviation of predictions
    (K, B, D).

    0 for members that agree (or one alone); of degree 1: predictions twice as far apart disagree twice as much.
    """
    apart = predictions.var(0, correction=0)
    weight = apart.new_ones(apart.shape[-1]) if weight is None else weight
    found: Tensor = ((apart * weight).sum(-1) / weight.sum()).sqrt()
    return found


def error_over_copy(predicted: ArrayLike, truth: ArrayLike, first: ArrayLike) -> Array:
    """Return (L,) root mean square error of predictions (N, L, D) over that of copying the first state (N, D).

    truth: (N, L, D), NaN where an episode was over, which then counts in neither.  1: no better than "nothing changes".
    """
    truth, first = np.asarray(truth, np.float64), np.asarray(first, np.float64)
    error = np.nanmean((np.asarray(predicted, np.float64) - truth) ** 2, axis=(0, 2))
    copied = np.nanmean((first[:, None] - truth) ** 2, axis=(0, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.sqrt(error / copied)
    return ratio


def calibration(spread: ArrayLike, error: ArrayLike) -> Calibration:
    """Compare spreads (N,) with errors (N,), both at least 0.  NaN where there is no spread to speak of."""
    spread, error = np.asarray(spread, np.float64), np.asarray(error, np.float64)
    if spread.shape != error.shape or spread.ndim != 1:
        raise problem("errors", f"shape {spread.shape} as the spreads", str(error.shape))
    some = spread > 0.0
    if not some.any():
        return Calibration(math.nan, math.nan, math.nan)
    z = error[some] / spread[some]
    scale = float(np.sqrt(np.mean(z**2)))
    within = float(np.mean(z <= 1.6448536269514722 * scale))
    return Calibration(spearman(spread, error), scale, within)


def alarm_level(scores: ArrayLike, alarm: float) -> float:
    """Return the level that a further score (exchangeable with these (n,)) exceeds with a chance of at most `alarm`.

    Split conformal: the score of rank ceil((n + 1)(1 - alarm)); infinite where n is too small for any.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    rank = math.ceil((len(ordered) + 1) * (1.0 - alarm) - 1e-9)
    return math.inf if rank > len(ordered) else float(ordered[max(rank, 1) - 1])


def firing_level(scores: ArrayLike, labels: ArrayLike) -> Firing:
    """Return the level with the best F1 of "score >= level" for labels (N,), among the scores themselves.

    Level infinite and the rest NaN where no label is True.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if not labels.any():
        return Firing(math.inf, math.nan, math.nan, math.nan)
    order = np.argsort(-scores, kind="stable")
    hits, fired = np.cumsum(labels[order]), np.arange(1, len(order) + 1)
    last = np.append(scores[order][:-1] != scores[order][1:], True)  # equal scores fire together
    f1 = np.where(last, 2.0 * hits / (fired + labels.sum()), -1.0)
    return firing_worth(scores, labels, float(scores[order[int(f1.argmax())]]))


def firing_worth(scores: ArrayLike, labels: ArrayLike, level: float) -> Firing:
    """Return precision, recall and F1 of "score >= level" for labels (N,); NaN where nothing fires or should."""
    fired, labels = np.asarray(scores, np.float64) >= level, np.asarray(labels, bool)
    hits, many, should = int((fired & labels).sum()), int(fired.sum()), int(labels.sum())
    precision, recall = hits / many if many else math.nan, hits / should if should else math.nan
    return Firing(level, precision, recall, 2.0 * hits / (many + should) if should else math.nan)
