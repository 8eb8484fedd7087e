"""Critics of state and action, several evaluated as one: batched matrix products in place of a loop over networks."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from toddle.models.normalizer import RunningNorm

__all__ = ["QEnsemble"]


class QEnsemble(nn.Module):
    """E networks with ReLU layers over the normalised observation and the action, one number each.

    Without actions (`action` 0) it is E value functions.  Weights are drawn as torch's linear layers draw theirs.
    `shape` holds what it was built from, as `runs.critics` stores it.
    """

    def __init__(self, observation: int, action: int, *, hidden: tuple[int, ...], count: int, seed: int) -> None:
        """Build E = `count` networks over O and A numbers; the weights follow from `seed`."""
        super().__init__()
        self.shape = {"observation": observation, "action": action, "hidden": hidden, "count": count}
        self.scale = RunningNorm((observation,))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generator = torch.Generator().manual_seed(seed)
        for inputs, outputs in pairwise([observation + action, *hidden, 1]):
            bound = 1.0 / math.sqrt(inputs)
            for parts, shape in ((self.weights, (count, inputs, outputs)), (self.biases, (count, 1, outputs))):
                parts.append(nn.Parameter((2.0 * torch.rand(shape, generator=generator) - 1.0) * bound))

    def forward(self, observation: Tensor, action: Tensor | None = None) -> Tensor:
        """Return the values (E, B) at observations (B, O) and actions (B, A)."""
        x = self.scale(observation)
        x = (x if action is None else torch.cat([x, action], -1)).expand(len(self.weights[0]), -1, -1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if number else x, weight)
        return x.squeeze(-1)
