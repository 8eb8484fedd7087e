"""A tanh MLP with a hand-written backward: the small networks of state-based control at the speed of their matmuls.

Against `nn.Sequential(Linear, Tanh, ...)` at 2x256 and 512 rows on one thread it saves the slow vector tanh (here
tanh(x) = 2 sigmoid(2x) - 1, whose factor 2 the matmul absorbs) and most of autograd's work; same function to 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TanhMLP"]


_MINUS_ONE = torch.tensor(-1.0)
"""As a tensor of no dimension: a Python number is converted at every call, which takes as long as a small sum."""


class _Function(torch.autograd.Function):
    """h_i = tanh(h_{i-1} W_i^T + b_i), output linear; parameters in the order W_1, b_1, W_2, b_2, ..."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        hidden, out = _layers(x, parameters)
        ctx.save_for_backward(*hidden, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        layers = (len(saved) - 1) // 3 + 1  # saved: `layers` activations (the input first), 2 * layers parameters
        hidden, weights = saved[:layers], saved[layers::2]
        out: list[Tensor | None] = []
        gradient = gradients[0]
        for layer in range(layers - 1, -1, -1):
            out += [gradient.sum(0), gradient.t().mm(hidden[layer])]
            if layer > 0:
                gradient = gradient.mm(weights[layer])
                # in place: what comes out takes the place of what goes in
                torch.ops.aten.tanh_backward.grad_input(gradient, hidden[layer], grad_input=gradient)
        out += [gradient.mm(weights[0]) if ctx.needs_input_grad[0] else None]
        return tuple(reversed(out))


def _layers(x: Tensor, parameters: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the input with the hidden activations, and the output."""
    hidden = [x]
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        twice = torch.addmm(bias, hidden[-1], weight.t(), beta=2, alpha=2)
        sigmoid = twice.sigmoid_()
        hidden.append(torch.add(_MINUS_ONE, sigmoid, alpha=2, out=sigmoid))
    return hidden, torch.addmm(parameters[-1], hidden[-1], parameters[-2].t())


class TanhMLP(nn.Module):
    """`inputs` -> hidden layers with tanh -> `outputs`, linear.  Orthogonal weights (gain sqrt 2, last `last_gain`)."""

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        *,
        last_gain: float,
        generator: torch.Generator,
    ) -> None:
        """Build the layers; weights are drawn from `generator` (a CPU generator)."""
        super().__init__()
        sizes = [inputs, *hidden, outputs]
        self._order: list[nn.Parameter] = []  # W_1, b_1, ...: a plain list, as looking modules up costs more than it
        for index, (size, width) in enumerate(pairwise(sizes)):
            weight, bias = nn.Parameter(torch.empty(width, size)), nn.Parameter(torch.zeros(width))
            gain = last_gain if index == len(hidden) else 2.0**0.5
            self.register_parameter(f"weight_{index}", weight)  # before it is filled: `core.memory` counts it
            self.register_parameter(f"bias_{index}", bias)
            nn.init.orthogonal_(weight, gain, generator=generator)
            self._order += [weight, bias]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TanhMLP:
        """Keep the list in step when moving to a device replaces the parameters."""
        super()._apply(fn, recurse)
        self._order = list(self.parameters())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled():
            out: Tensor = _Function.apply(rows, *self._order)
        else:  # acting: without autograd's bookkeeping
            out = _layers(rows, self._order)[1]
        return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)
