"""Resizing pictures as matrices: the same numbers as PIL's and TensorFlow's resizers, which models were trained with.

A picture (..., H, W) becomes rows @ picture @ columns.T; each function returns one such matrix (new, old) in float64.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Kernel", "apply", "crop_matrix", "resize_matrix"]

Kernel = Literal["bilinear", "bicubic", "lanczos"]


def _kernel(x: Tensor, name: Kernel) -> Tensor:
    """Return a kernel's weight at distances x (...), in old pixels where it is not widened."""
    x = x.abs()
    if name == "bilinear":
        return (1 - x).clamp(min=0)
    if name == "bicubic":  # Keys' with a = -0.5, as PIL's
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


def resize_matrix(old: int, new: int, kernel: Kernel) -> Tensor:
    """Return the matrix (new, old) that resizes a side with antialiasing: the kernel widens where it shrinks.

    Source: Pillow, src/libImaging/Resample.c; tf.image.resize(antialias=True) has the same weights.
    """
    scale = old / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    distance = torch.arange(old, dtype=torch.float64) + 0.5 - centres[:, None]
    weight = _kernel(distance / max(scale, 1.0), kernel)
    return weight / weight.sum(1, keepdim=True)


def crop_matrix(old: int, new: int, share: float) -> Tensor:
    """Return the matrix (new, old) that takes the middle `share` of a side and scales it, bilinear, corners aligned.

    The sample points run from (1 - share) / 2 to (1 + share) / 2 of old - 1, both included.
    Source: tf.image.crop_and_resize.
    """
    low, high = ((1 - share) / 2 * (old - 1), (1 + share) / 2 * (old - 1))
    points = torch.linspace(low, high, new, dtype=torch.float64)
    return (1 - (torch.arange(old, dtype=torch.float64) - points[:, None]).abs()).clamp(min=0)


def apply(pictures: Tensor, rows: Tensor, columns: Tensor, *, steps: bool) -> Tensor:
    """Return pictures (..., H, W) with values 0 to 255 mapped by rows (H', H) and columns (W', W), in float64.

    steps: as PIL does, in weights of 22 bits and rounded to whole values after either side, columns first.
    """
    if steps:
        rows, columns = ((side * 2**22).round() / 2**22 for side in (rows, columns))
    wide = pictures.double() @ columns.to(pictures.device).T
    if steps:
        wide = (wide + 0.5).floor().clamp(0, 255)
    whole = rows.to(pictures.device) @ wide
    return (whole + 0.5).floor().clamp(0, 255) if steps else whole
