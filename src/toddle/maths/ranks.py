"""How well scores put things in order: Spearman's rank correlation and the area under the ROC curve."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toddle.core.errors import problem

__all__ = ["area_under_roc", "ranks", "spearman"]


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the ranks (N,) from 1 of numbers (N,); equal ones share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise problem("values", "one dimension and no NaN", f"shape {array.shape}")
    _, which, count = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found: NDArray[np.float64] = (last - (count - 1) / 2)[which]
    return found


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation of (N,) and (N,), -1 to 1; NaN where one of them is constant."""
    a, b = ranks(first), ranks(second)
    if a.shape != b.shape:
        raise problem("values", f"shape {a.shape} for both", str(b.shape))
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else math.nan


def area_under_roc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return how often something labelled True scores higher than something labelled False; equal scores count half.

    scores, labels: (N,).  0.5 is chance; NaN where all labels are the same.  Mann & Whitney's U over its maximum.
    """
    positive = np.asarray(labels, bool)
    many = int(positive.sum())
    if many in (0, len(positive)):
        return math.nan
    above = ranks(scores)[positive].sum() - many * (many + 1) / 2
    return float(above / (many * (len(positive) - many)))
