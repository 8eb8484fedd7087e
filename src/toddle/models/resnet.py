"""A ResNet with group norms, from pictures to tokens: the eyes of a diffusion policy that learn with it.

Sources: He et al. 2016 (arXiv 1512.03385), the network of 18 layers; group norms in place of batch norms as in
Diffusion Policy (Chi et al. 2023, arXiv 2303.04137), because averaged weights and batch statistics do not agree.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.core.seeding import randint

__all__ = ["ResNet", "ResNetConfig", "shifted"]

GROUP = 16
"""Channels of a group norm's group, at most."""


@config
class ResNetConfig:
    """A ResNet over pictures."""

    channels: tuple[Size, ...] = (64, 128, 256, 512)
    """Channels of each stage; the picture is halved between stages."""
    blocks: Size = 2
    """Blocks of two convolutions in a stage; 2 of 4 stages are the network of 18 layers."""


def _norm(channels: int) -> nn.GroupNorm:
    if channels % (groups := max(1, channels // GROUP)):
        raise problem("resnet.channels", f"below {2 * GROUP}, or multiples of {GROUP}", channels)
    return nn.GroupNorm(groups, channels)


class _Block(nn.Module):
    """Two convolutions and a way round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = _norm(outputs), _norm(outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.skip(x))


class ResNet(nn.Module):
    """Pictures (M, n, 3, H, W) uint8 to tokens (M, n h w, channels + 2): a token a place, with its two coordinates."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        sizes = [config.channels[0], *config.channels]
        self.stem = nn.Sequential(
            nn.Conv2d(3, sizes[0], 7, stride=2, padding=3, bias=False),
            _norm(sizes[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        for stage, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            stages.append(_Block(inputs, outputs, 1 if stage == 0 else 2))
            stages += [_Block(outputs, outputs, 1) for _ in range(config.blocks - 1)]
        self.stages = nn.Sequential(*stages)
        self.width = config.channels[-1] + 2

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of pictures of one size."""
        seen = self.stages(self.stem(images.flatten(0, 1).float() / 127.5 - 1.0))
        rows, columns = (torch.linspace(-1.0, 1.0, size, device=seen.device) for size in seen.shape[-2:])
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        seen = torch.cat([seen, place.expand(len(seen), -1, -1, -1)], 1)
        return seen.flatten(2).transpose(1, 2).unflatten(0, images.shape[:2]).flatten(1, 2)


def shifted(images: Tensor, generator: torch.Generator, share: float = 0.05) -> Tensor:
    """Return pictures (M, n, 3, H, W) cropped at random: each moved by up to `share` of its size, its edge repeated."""
    height, width = images.shape[-2:]
    most = max(1, round(share * min(height, width)))
    padded = F.pad(images.flatten(0, 1).float(), (most,) * 4, mode="replicate").to(images.dtype)
    by = randint(2 * most + 1, (len(padded), 2), generator, images.device)
    row = by[:, :1] + torch.arange(height, device=images.device)
    column = by[:, 1:] + torch.arange(width, device=images.device)
    place = torch.arange(len(padded), device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[place, row[:, :, None], column[:, None]]
    return moved.permute(0, 3, 1, 2).unflatten(0, images.shape[:2])
