"""Pictures as they might also have been: cropped and in other colours, so that a policy does not depend on either.

Every picture has `variants` copies beside itself, each drawn from its place in the data set and its number alone: a
frozen backbone's features of them can be cached, and runs share them.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from toddle.core.config import config
from toddle.core.numbers import Discount, Range, Share
from toddle.core.seeding import rand, torch_generator

__all__ = ["PictureAugmentation", "augmented"]

Variants = Annotated[int, Range(0, 64, "a whole number from 0 to 64", whole=True)]
GREY = (0.299, 0.587, 0.114)
"""Share of red, green and blue in a pixel's luminance (ITU-R BT.601)."""


@config
class PictureAugmentation:
    """How copies of the pictures are made; encoding, cache and training samples grow with their number."""

    variants: Variants = 0
    """Changed copies of every picture that are learned from beside the picture itself; 0 for none."""
    crop: Discount = 0.05
    """A copy lacks up to this share of its height and width, anywhere at the edges, and is scaled back."""
    brightness: Share = 0.4
    """A copy's colours are multiplied by 1 minus to 1 plus this."""
    contrast: Share = 0.3
    """Distances from the picture's mean grey likewise."""
    saturation: Share = 0.3
    """Distances of a pixel's colours from its grey likewise."""

    @property
    def copies(self) -> int:
        """The picture and its variants."""
        return 1 + self.variants


def augmented(images: Tensor, settings: PictureAugmentation, picture: int, variant: int) -> Tensor:
    """Return the variant of a picture's views (cameras, 3, H, W) uint8; variant 0 is the picture itself."""
    if variant == 0:
        return images
    drawn = rand((len(images), 6), torch_generator(0, "augment", picture, variant), images.device)
    kept = 1.0 - settings.crop * drawn[:, 0]  # crop scale; offsets keep the crop inside
    offset = (2.0 * drawn[:, 1:3] - 1.0) * (1.0 - kept[:, None])
    moved = torch.zeros(len(images), 2, 3, device=images.device)
    moved[:, 0, 0] = moved[:, 1, 1] = kept
    moved[:, :, 2] = offset
    shape = list(images.shape)
    grid = F.affine_grid(moved, shape, align_corners=False)
    colours = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    ranges = torch.tensor([settings.brightness, settings.contrast, settings.saturation], device=images.device)
    bright, contrast, saturation = (1.0 + ranges * (2.0 * drawn[:, 3:] - 1.0)).T[..., None, None, None]
    colours = colours * bright
    weights = torch.tensor(GREY, device=images.device)[:, None, None]
    mean = (colours * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    colours = mean + contrast * (colours - mean)
    grey = (colours * weights).sum(1, keepdim=True)
    colours = grey + saturation * (colours - grey)
    return colours.round().clamp(0, 255).to(torch.uint8)
