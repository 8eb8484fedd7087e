"""How alike two representations of the same samples are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["linear_cka"]


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of features x (N, P) and y (N, Q): 1 where one is a rotation and
    scaling of the other, near 0 where they share nothing.

    CKA = |Yc' Xc|_F^2 / (|Xc' Xc|_F |Yc' Yc|_F), Xc and Yc centred over the samples: Kornblith et al. 2019
    (arXiv 1905.00414), equation 4 and section 3.  NaN where either is constant.
    """
    x, y = x.double(), y.double()
    x, y = x - x.mean(0), y - y.mean(0)
    shared = torch.linalg.matrix_norm(y.T @ x).square()
    return float(shared / (torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)))
