"""Pictures as OpenVLA's processors prepare them, and as its released evaluations do before that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive
from toddle.maths.resampling import Kernel, apply, crop_matrix, resize_matrix

__all__ = ["STRATEGIES", "PictureSettings", "TowerPicture", "prepare"]

Strategy = Literal["resize-naive", "resize-crop", "letterbox"]
STRATEGIES: tuple[Strategy, ...] = ("resize-naive", "resize-crop", "letterbox")


VIEWS = {"as_drawn": (), "mirrored": (-1,), "turned": (-2, -1)}
"""Which sides are reversed."""


@config
class PictureSettings:
    """What is done to pictures before the model's own preparation: no file of the weights says it."""

    view: Literal["as_drawn", "mirrored", "turned"] = "as_drawn"
    """mirrored: left becomes right, as checkpoints of LIBERO saw it.  turned: by 180 degrees, which is the same where
    pictures are upside down, as robosuite's own are (toddle's are upright)."""
    lanczos: bool = False
    """Resize to the model's size by Lanczos first, as the released LIBERO evaluations do."""
    crop: Positive = 1.0
    """Share of the area that is kept, its middle: 0.9 where it was trained on random crops (all of LIBERO's)."""

    def __post_init__(self) -> None:
        if self.crop > 1:
            raise problem("pictures.crop", "a share of the area, at most 1", self.crop)


class TowerPicture(NamedTuple):
    """How one tower wants its pictures."""

    size: int
    kernel: Kernel
    mean: Sequence[float]
    std: Sequence[float]


def prepare(
    images: Tensor, towers: Sequence[TowerPicture], strategy: Strategy, settings: PictureSettings
) -> list[Tensor]:
    """Return pictures (N, 3, H, W) uint8 as each tower takes them, (N, 3, S, S) float32, normalised."""
    pixels = images.flip(VIEWS[settings.view]).double()
    height, width = pixels.shape[-2:]
    size = towers[0].size
    if settings.lanczos:
        rows, columns = (resize_matrix(side, size, "lanczos") for side in (height, width))
        pixels = apply(pixels, rows, columns, steps=False).round().clamp(0, 255)
        height = width = size
    if settings.crop < 1:  # TensorFlow turns [0, 1] into bytes by cutting off after times 255.5
        rows, columns = (crop_matrix(side, size, settings.crop**0.5) for side in (height, width))
        pixels = (apply(pixels, rows, columns, steps=False) * (255.5 / 255)).floor().clamp(0, 255)
    if strategy == "letterbox":
        pixels = _to_square(pixels, towers[-1].mean)
    found = []
    for tower in towers:
        whole = _resized(pixels, tower.size, tower.kernel, naive=strategy == "resize-naive")
        mean, std = (torch.tensor(value, device=images.device).view(3, 1, 1) for value in (tower.mean, tower.std))
        found.append((whole.float() / 255.0 - mean) / std)
    return found


def _to_square(pixels: Tensor, mean: Sequence[float]) -> Tensor:
    """Pad the shorter side on both ends with the mean colour."""
    height, width = pixels.shape[-2:]
    down, right = (max(height, width) - height) // 2, (max(height, width) - width) // 2
    colour = torch.tensor([int(255 * value) for value in mean], dtype=pixels.dtype, device=pixels.device)
    square = colour.view(3, 1, 1).expand(len(pixels), 3, height + 2 * down, width + 2 * right).clone()
    square[:, :, down : down + height, right : right + width] = pixels
    return square


def _resized(pixels: Tensor, size: int, kernel: Kernel, *, naive: bool) -> Tensor:
    """Resize to size x size, or the shorter side to `size` and take the middle."""
    height, width = pixels.shape[-2:]
    short = min(height, width)
    new = (size, size) if naive else (int(size * height / short), int(size * width / short))
    if new != (height, width):
        rows, columns = (resize_matrix(old, made, kernel) for old, made in zip((height, width), new, strict=True))
        pixels = apply(pixels, rows, columns, steps=True)
    top, left = (round((made - size) / 2.0) for made in new)
    return pixels[..., top : top + size, left : left + size]
