"""Plain multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

__all__ = ["make_mlp", "scale_", "zero_"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


def make_mlp(sizes: Sequence[int], activation: str = "silu") -> nn.Sequential:
    """Build Linear layers of these sizes with the activation between them (none after the last)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def scale_(layer: nn.Linear, gain: float) -> nn.Linear:
    """Multiply a layer's weight by `gain` and set its bias to 0, in place (a small first action mean, say)."""
    layer.weight.mul_(gain)
    layer.bias.zero_()
    return layer


@torch.no_grad()
def zero_(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weight and bias to zero, in place."""
    layer.weight.zero_()
    if layer.bias is not None:
        layer.bias.zero_()
    return layer
