"""Networks that predict noise or velocity of an action chunk: a residual MLP and a 1-D U-Net with FiLM.

Both read the observation once per decision: `encode` turns features into what all links share, and `forward` takes any
number of links L at once, so a minibatch's whole chain is one batched pass.
Letters: M decisions, L links, H chunk, A action.  Sources: DPPO's residual MLP (arXiv 2409.00588, appendix);
Diffusion Policy's conditional U-Net (arXiv 2303.04137).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.models.mish import mish

__all__ = ["Denoiser", "MlpDenoiser", "MlpDenoiserConfig", "Unet", "UnetConfig", "time_features"]

TIME_FEATURES = 32


@functools.cache
def _frequencies(count: int, device: torch.device) -> Tensor:
    return torch.exp(torch.arange(count, device=device) * (math.log(1000.0) / (count - 1)))


def time_features(time: Tensor, size: int = TIME_FEATURES) -> Tensor:
    """Return sines and cosines (..., size) of link times (...) in [0, 1], with frequencies from 1 to 1000."""
    angle = time[..., None] * _frequencies(size // 2, time.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


class Denoiser(Protocol):
    """What a denoising policy needs of a network."""

    def encode(self, features: Tensor) -> Tensor:
        """Turn an observation's features (M, F) into what every link shares."""

    def __call__(self, shared: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Predict for noisy chunks x (M, L, H, A) at times (L,) or (M, L): (M, L, H, A)."""


@config
class MlpDenoiserConfig:
    """A residual MLP over the flattened chunk."""

    kind: Literal["mlp"] = "mlp"
    """Names the network in files."""
    width: Size = 256
    """Channels of the residual stream."""
    blocks: Size = 1
    """Residual blocks of two layers each."""
    activation: Literal["silu", "mish"] = "silu"
    """DPPO takes mish; silu is near it and costs a fraction on a CPU."""
    contract: bool | None = None
    """Add the chunk to the predicted noise, or take it from the velocity.  What starts from random weights then shrinks
    the noise it begins with (a flow to a third over 4 steps) instead of passing it on as the action.  None: where RL
    starts from random weights."""


class MlpDenoiser(nn.Module):
    """h = W_x x + W_f f + W_t t, then blocks h + W_2 g(W_1 g(h)), then a linear layer; g SiLU or Mish."""

    def __init__(self, config: MlpDenoiserConfig, features: int, horizon: int, action: int) -> None:
        super().__init__()
        d, flat = config.width, horizon * action
        self.shape = (horizon, action)
        self.activate = F.silu if config.activation == "silu" else mish
        self.from_features, self.from_time = nn.Linear(features, d), nn.Linear(TIME_FEATURES, d, bias=False)
        self.from_chunk = nn.Linear(flat, d, bias=False)
        self.layers = nn.ModuleList([nn.Linear(d, d) for _ in range(2 * config.blocks)])
        self.out = nn.Linear(d, flat)

    def encode(self, features: Tensor) -> Tensor:
        """Return the observation's part of the first layer (M, d)."""
        return self.from_features(features)

    def forward(self, shared: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Predict for x (M, L, H, A) at times (L,) or (M, L)."""
        h = self.from_chunk(x.flatten(-2)) + self.from_time(time_features(time)) + shared[:, None]
        layers = list(self.layers)  # slices of a ModuleList are ModuleLists, which take longer to make than to use
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            h = h + second(self.activate(first(self.activate(h))))
        return self.out(self.activate(h)).unflatten(-1, self.shape)


@config
class UnetConfig:
    """A 1-D U-Net over the chunk's time axis."""

    kind: Literal["unet"] = "unet"
    """Names the network in files."""
    channels: tuple[Size, ...] = (64, 128)
    """Channels of each level; the chunk's length is halved between levels."""
    condition: Size = 128
    """Width of the conditioning vector."""
    groups: Size = 8
    """Groups of the group norms."""
    contract: bool | None = None
    """As `MlpDenoiserConfig.contract`."""


class _FilmBlock(nn.Module):
    """Two convolutions; the condition scales and shifts between them (FiLM)."""

    def __init__(self, inputs: int, outputs: int, condition: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(inputs, outputs, 3, padding=1), nn.Conv1d(outputs, outputs, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(groups, outputs), nn.GroupNorm(groups, outputs)
        self.film = nn.Linear(condition, 2 * outputs)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(mish(condition))[..., None].chunk(2, dim=-2)
        h = mish(self.norm1(self.first(x))) * (1 + scale) + shift
        return mish(self.norm2(self.second(h))) + self.skip(x)


class Unet(nn.Module):
    """Down, middle, up with skips; the condition is the sum of an observation part and a time part."""

    def __init__(self, config: UnetConfig, features: int, horizon: int, action: int) -> None:
        super().__init__()
        levels = len(config.channels)
        if horizon % 2 ** (levels - 1):
            raise problem("horizon", f"a multiple of {2 ** (levels - 1)} for {levels} levels", horizon)
        c, g = config.condition, config.groups
        self.from_features, self.from_time = nn.Linear(features, c), nn.Linear(TIME_FEATURES, c)
        sizes = [action, *config.channels]
        self.down = nn.ModuleList([_FilmBlock(i, o, c, g) for i, o in itertools.pairwise(sizes)])
        self.shrink = nn.ModuleList([nn.Conv1d(o, o, 3, stride=2, padding=1) for o in sizes[1:-1]])
        self.middle = _FilmBlock(sizes[-1], sizes[-1], c, g)
        reverse = sizes[:0:-1]
        self.grow = nn.ModuleList([nn.ConvTranspose1d(i, o, 2, stride=2) for i, o in itertools.pairwise(reverse)])
        self.up = nn.ModuleList([_FilmBlock(2 * o, o, c, g) for o in reverse[1:]])
        self.out = nn.Conv1d(sizes[1], action, 1)

    def encode(self, features: Tensor) -> Tensor:
        """Return the observation's part of the condition (M, c)."""
        return self.from_features(features)

    def forward(self, shared: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Predict for x (M, L, H, A) at times (L,) or (M, L)."""
        lead = x.shape[:2]
        condition = (shared[:, None] + self.from_time(time_features(time))).expand(*lead, -1).flatten(0, 1)
        h, skips = x.flatten(0, 1).transpose(1, 2), []
        for level, block in enumerate(self.down):
            h = block(h, condition)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        h = self.middle(h, condition)
        for grow, block in zip(self.grow, self.up, strict=True):
            h = block(torch.cat([grow(h), skips.pop()], 1), condition)
        return self.out(h).transpose(1, 2).unflatten(0, lead)
