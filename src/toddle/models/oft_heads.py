"""What OpenVLA-OFT (arXiv 2502.19645) adds to OpenVLA: a head of numbers, and a projector of proprioception.

Names of the weights are those of its files.  Source: moojink/openvla-oft, prismatic/models.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ActionHead", "NoiseHead", "NoisyActionProjector", "ProprioProjector", "time_features"]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = x + self.ffn(x)
        return done


class _ResNet(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layer_norm1, self.fc1 = nn.LayerNorm(inputs), nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(_Block(width) for _ in range(2))
        self.layer_norm2, self.fc2 = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        done: Tensor = self.fc2(self.layer_norm2(x))
        return done


class ActionHead(nn.Module):
    """The L1 head: hidden states (N, H A, D), one time step's A after the other, to actions (N, H, A)."""

    def __init__(self, action: int, width: int) -> None:
        super().__init__()
        self.action = action
        self.model = _ResNet(action * width, width, action)

    def forward(self, hidden: Tensor) -> Tensor:
        done: Tensor = self.model(hidden.unflatten(1, (-1, self.action)).flatten(2))
        return done


class _NoisePredictor(nn.Module):
    def __init__(self, action: int, width: int) -> None:
        super().__init__()
        self.mlp_resnet = _ResNet(action * width, width, action)


class NoiseHead(nn.Module):
    """The diffusion head: hidden states (N, H A, D), one time step's A after the other, to the noise (N, H, A)."""

    def __init__(self, action: int, width: int) -> None:
        super().__init__()
        self.action = action
        self.noise_predictor = _NoisePredictor(action, width)

    def forward(self, hidden: Tensor) -> Tensor:
        done: Tensor = self.noise_predictor.mlp_resnet(hidden.unflatten(1, (-1, self.action)).flatten(2))
        return done


class NoisyActionProjector(nn.Module):
    """Noisy numbers (N, H A) to one token each (N, H A, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(1, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.fc2(F.gelu(self.fc1(x[..., None])))
        return done


def time_features(step: Tensor, width: int) -> Tensor:
    """Return sines and cosines (N, D) of diffusion steps (N,), of wavelengths from 2 pi to 20,000 pi."""
    places = torch.arange(width // 2, device=step.device)
    angle = step[:, None].float() * torch.exp(places * (-math.log(10000.0) / (width // 2 - 1)))
    return torch.cat([angle.sin(), angle.cos()], -1)


class ProprioProjector(nn.Module):
    """Normalised proprioception (N, O) to one token (N, D)."""

    def __init__(self, proprio: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(proprio, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return done
