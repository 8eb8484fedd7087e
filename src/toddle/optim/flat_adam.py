"""Adam over modules whose parameters lie in one vector: clipping and the step are a few calls, whatever the modules.

Kingma & Ba 2015, "Adam" (arXiv 1412.6980), algorithm 1; the same numbers as torch.optim.Adam to float rounding.  The
step is torch's own fused kernel, called directly: with a dozen small tensors `torch.optim.Adam(fused=True)` spends ten
times the kernel's time in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FlatAdam"]

ALIGNMENT = 16
"""Each tensor starts at a multiple of 64 bytes, as matmuls like it."""


@dataclass
class _Part:
    """One module's slices of the vectors, and its learning rate."""

    vector: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    base_rate: float
    rate: float


class FlatAdam:
    """Adam over named modules, each with a learning rate and a limit of its gradient's norm.

    The parameters stay what they are to their modules (names, shapes, state_dict); they become views of one vector,
    and so do their gradients.  A parameter that gets no gradient in a backward pass keeps a zero gradient.
    """

    def __init__(
        self,
        modules: dict[str, tuple[nn.Module, float]],
        *,
        max_norm: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """Take over the parameters of `modules` (name -> module, rate); frozen ones are left alone."""
        self.max_norm, self.betas, self.epsilon, self.steps = max_norm, betas, epsilon, 0
        lists = {name: [p for p in module.parameters() if p.requires_grad] for name, (module, _) in modules.items()}
        sizes = {name: sum(_padded(p) for p in list_) for name, list_ in lists.items()}
        like = next(p for list_ in lists.values() for p in list_)
        self.vector, self.gradient, self.first, self.second = (
            torch.zeros(sum(sizes.values()), dtype=like.dtype, device=like.device) for _ in range(4)
        )
        self._count = torch.zeros((), device=like.device)  # `steps` as the kernel wants it
        self.parts: dict[str, _Part] = {}
        start = 0
        for name, (_, rate) in modules.items():
            span = slice(start, start + sizes[name])
            vectors = (self.vector[span], self.gradient[span], self.first[span], self.second[span])
            self.parts[name] = _Part(*vectors, rate, rate)
            for p in lists[name]:
                inside = slice(start, start + p.numel())
                view = self.vector[inside].view_as(p)
                view.copy_(p.data)
                p.data, p.grad = view, self.gradient[inside].view_as(p)
                start += _padded(p)

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        self.gradient.zero_()

    def set_rates(self, factor: float) -> None:
        """Set each rate to `factor` times what it was at the start."""
        for part in self.parts.values():
            part.rate = part.base_rate * factor

    def clip(self) -> dict[str, float]:
        """Scale each module's gradient to a norm of at most `max_norm`; return the norms before, by module."""
        norms = {}
        for name, part in self.parts.items():
            norms[name] = norm = torch.linalg.vector_norm(part.gradient).item()
            if norm > self.max_norm:
                part.gradient.mul_(self.max_norm / (norm + 1e-6))
        return norms

    @torch.no_grad()
    def step(self) -> None:
        """Make one step of Adam."""
        self.steps += 1
        self._count.fill_(self.steps)
        b1, b2 = self.betas
        for part in self.parts.values():
            torch._fused_adam_(
                [part.vector],
                [part.gradient],
                [part.first],
                [part.second],
                [],
                [self._count],
                lr=part.rate,
                beta1=b1,
                beta2=b2,
                weight_decay=0.0,
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
            )

    def restart(self) -> None:
        """Forget moments and steps, as if nothing had been learned."""
        self.first.zero_()
        self.second.zero_()
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the count of steps (parameters belong to their modules)."""
        return {"first": self.first.clone(), "second": self.second.clone(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.steps = int(state["steps"])


def _padded(p: Tensor) -> int:
    return -(-p.numel() // ALIGNMENT) * ALIGNMENT
