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
    With `layer_norm` each hidden layer is normalised before its ReLU (RLPD, Ball et al. 2023, arXiv 2302.02948, section
    4.2): whatever the action, |Q| is at most |w| |h| + |b|, with the norm of the last hidden layer h held down.
    """

    def __init__(
        self,
        observation: int,
        action: int,
        *,
        hidden: tuple[int, ...],
        count: int,
        seed: int,
        layer_norm: bool = False,
    ) -> None:
        """Build E = `count` networks over O and A numbers; the weights follow from `seed`."""
        super().__init__()
        self.shape = {"observation": observation, "action": action, "hidden": hidden, "count": count}
        self.shape |= {"layer_norm": layer_norm}
        self.sizes = observation, action
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for width in hidden if layer_norm else ():
            self.gains.append(nn.Parameter(torch.ones(count, 1, width)))
            self.shifts.append(nn.Parameter(torch.zeros(count, 1, width)))
        self.scale = RunningNorm((observation,))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generator = torch.Generator().manual_seed(seed)
        for inputs, outputs in pairwise([observation + action, *hidden, 1]):
            bound = 1.0 / math.sqrt(inputs)
            for parts, shape in ((self.weights, (count, inputs, outputs)), (self.biases, (count, 1, outputs))):
                parts.append(nn.Parameter((2.0 * torch.rand(shape, generator=generator) - 1.0) * bound))

    def forward(self, observation: Tensor, action: Tensor | None = None, members: Tensor | None = None) -> Tensor:
        """Return the values (E, B) at observations (B, O) and actions (B, A); `members` (M,): of these networks alone,
        (M, B)."""

        def of(parameter: Tensor) -> Tensor:
            return parameter if members is None else parameter[members]

        x = self.scale(observation)
        x = x if action is None else torch.cat([x, action], -1)
        x = x.expand(len(self.weights[0]) if members is None else len(members), -1, -1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                if len(self.gains):
                    x = nn.functional.layer_norm(x, x.shape[-1:])
                    x = torch.addcmul(of(self.shifts[number - 1]), x, of(self.gains[number - 1]))
                x = x.relu_()  # what it was made from needs it no more
            x = torch.baddbmm(of(bias), x, of(weight))
        return x.squeeze(-1)
