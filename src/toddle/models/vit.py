"""A vision transformer with timm's names, as far as OpenVLA's towers need it: DINOv2 with registers and SigLIP.

What is read is the output of the second last block, without the final norm and without the tokens before the patches,
so the last block, the norm and SigLIP's pooling are not built at all.
Source: timm, models/vision_transformer.py; the names of layer scale are those of openvla/openvla's folders.
FiLM (OpenVLA-OFT, arXiv 2502.19645): between attention and MLP, x (1 + scale(l)) + shift(l), l a vector of language.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.models.recompute import recomputed

__all__ = ["TowerSizes", "VisionTower"]


class TowerSizes(NamedTuple):
    """Sizes of a tower.  `blocks` are those that are read: one fewer than its file has."""

    width: int
    blocks: int
    heads: int
    mlp: int
    patch: int
    side: int  # patches a side
    registers: int  # tokens before the patches beside the class token; 0: no such tokens at all
    layer_scale: bool
    film: int = 0  # width of the language vector; 0: no FiLM


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        done: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return done


class _MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return done


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class _Block(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(sizes.width, eps=1e-6), nn.LayerNorm(sizes.width, eps=1e-6)
        self.attn, self.mlp = _Attention(sizes.width, sizes.heads), _MLP(sizes.width, sizes.mlp)
        self.ls1 = _LayerScale(sizes.width) if sizes.layer_scale else nn.Identity()
        self.ls2 = _LayerScale(sizes.width) if sizes.layer_scale else nn.Identity()
        self.film = sizes.film > 0
        if self.film:
            self.scale, self.shift = nn.Linear(sizes.film, sizes.width), nn.Linear(sizes.film, sizes.width)

    def forward(self, x: Tensor, language: Tensor | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        if self.film:
            x = x * (1 + self.scale(language)[:, None]) + self.shift(language)[:, None]
        done: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return done


class _PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)


class VisionTower(nn.Module):
    """Pictures (N, 3, S, S), normalised, to the features (N, P, W) of their patches, row by row."""

    def __init__(self, sizes: TowerSizes) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.sizes = sizes
        if sizes.registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
            self.reg_token = nn.Parameter(torch.zeros(1, sizes.registers, sizes.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, sizes.side**2, sizes.width))
        self.patch_embed = _PatchEmbed(sizes.width, sizes.patch)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.blocks))

    def forward(self, pictures: Tensor, language: Tensor | None = None) -> Tensor:
        """Return the features of the patches; language (N, film) where the tower has FiLM."""
        x = self.patch_embed.proj(pictures).flatten(2).transpose(1, 2) + self.pos_embed
        before = 0
        if self.sizes.registers:  # they have no place of their own
            first = torch.cat([self.cls_token, self.reg_token], 1).expand(len(x), -1, -1)
            x, before = torch.cat([first, x], 1), first.shape[1]
        for block in self.blocks:
            x = recomputed(block, x, language)
        return x[:, before:]
