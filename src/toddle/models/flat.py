"""All parameters of a module behind one vector, so that clipping and the optimiser are one call each.

With a dozen small tensors the optimiser's Python costs as much as the arithmetic; with one vector it does not.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["FlatParameters"]

ALIGNMENT = 16
"""Each tensor starts at a multiple of 64 bytes, as matmuls like it."""


class FlatParameters:
    """Moves parameters into one vector `vector` (an nn.Parameter) whose gradient is theirs.

    The parameters stay what they are to their module (names, shapes, state_dict); they become views.  A parameter
    that gets no gradient in a backward pass keeps a zero gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the parameters over; frozen ones are left alone."""
        self.parameters = [p for p in parameters if p.requires_grad]
        starts, total = [], 0
        for p in self.parameters:
            starts.append(total)
            total += -(-p.numel() // ALIGNMENT) * ALIGNMENT
        like = self.parameters[0]
        self.vector = nn.Parameter(torch.zeros(total, dtype=like.dtype, device=like.device))
        self.vector.grad = torch.zeros_like(self.vector)
        for p, start in zip(self.parameters, starts, strict=True):
            view = self.vector.data[start : start + p.numel()].view_as(p)
            view.copy_(p.data)
            p.data = view
            p.grad = self.vector.grad[start : start + p.numel()].view_as(p)

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        assert self.vector.grad is not None
        self.vector.grad.zero_()

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradient so that its norm is at most `max_norm`; return the norm before (a number)."""
        assert self.vector.grad is not None
        norm = torch.linalg.vector_norm(self.vector.grad)
        self.vector.grad.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm
