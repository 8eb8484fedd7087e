"""How often to practise what succeeds how often: VLA-RL (Lu et al. 2025, arXiv 2505.18719), equation 4.

literal   P ~ exp((0.5 - s) / tau)     as printed: it falls with the success rate s, so the hardest come most
frontier  P ~ exp(-|s - 0.5| / tau)    as the text says: what succeeds half of the time comes most
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toddle.core.errors import problem

__all__ = ["CurriculumKind", "curriculum_shares"]

CurriculumKind = Literal["uniform", "literal", "frontier"]


def curriculum_shares(success: ArrayLike, kind: CurriculumKind, *, tau: float, floor: float) -> NDArray[np.float64]:
    """Return the probabilities (N,), summing to 1, with which to draw what succeeds at rates (N,) in 0..1.

    tau: the temperature; floor: least probability of each, as a share of the uniform 1 / N.
    Raises InputError where rates are not one dimension of numbers from 0 to 1.
    """
    rates = np.asarray(success, dtype=np.float64)
    if rates.ndim != 1 or not rates.size or not ((rates >= 0) & (rates <= 1)).all():
        raise problem("success", "rates (N,) from 0 to 1", f"shape {rates.shape}")
    if kind == "uniform":
        return np.full(len(rates), 1.0 / len(rates))
    logits = (0.5 - rates if kind == "literal" else -np.abs(rates - 0.5)) / tau
    weights = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = (1.0 - floor) * weights / weights.sum() + floor / len(rates)
    return shares
