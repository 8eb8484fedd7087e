"""Learning rates over a run, one owner of warm-up and cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5)."""

from __future__ import annotations

import math

__all__ = ["cosine_factor"]


def cosine_factor(step: int, steps: int, *, warm_up: int = 0, final: float = 0.0) -> float:
    """Return the factor of the peak learning rate at `step` (counted from 0) of `steps`.

    It rises linearly over the first `warm_up` steps (step s gets (s + 1) / warm_up), then falls by a half cosine to
    the share `final`, where it stays.
    """
    if step < warm_up:
        return (step + 1) / warm_up
    share = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share))
