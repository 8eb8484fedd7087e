"""What OpenVLA-OFT (arXiv 2502.19645) adds to OpenVLA: a head of numbers, and a projector of proprioception.

Names of the weights are those of its files.  Source: moojink/openvla-oft, prismatic/models.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ActionHead", "ProprioProjector"]


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


class ProprioProjector(nn.Module):
    """Normalised proprioception (N, O) to one token (N, D)."""

    def __init__(self, proprio: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(proprio, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return done
