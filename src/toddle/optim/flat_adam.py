"""Adam over modules whose parameters lie in a few vectors: clipping and the step are a few calls, whatever the modules.

Kingma & Ba 2015, "Adam" (arXiv 1412.6980), algorithm 1; the same numbers as torch.optim.Adam to float rounding.  The
step is torch's own fused kernel, called directly: with a dozen small tensors `torch.optim.Adam(fused=True)` spends ten
times the kernel's time in Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.protocols import Module
from toddle.core.tensors import is_part

__all__ = ["FlatAdam", "fused_adam", "padded"]

ALIGNMENT = 16
"""Each tensor starts at a multiple of 16 numbers, as matmuls like it."""


@dataclass
class _Buffer:
    """Vectors of one type and length: parameters, their gradients and their moments."""

    parameter: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor

    def span(self, begin: int, end: int) -> _Buffer:
        """Return the numbers from `begin` to `end` (views)."""
        parts = (self.parameter, self.gradient, self.first, self.second)
        return _Buffer(*(vector[begin:end] for vector in parts))


@dataclass
class _Part:
    """One module: its share of the buffers (one a type it holds) and its learning rate."""

    buffers: list[_Buffer]
    base_rate: float
    rate: float

    def norm(self) -> float:
        """Return the norm of the whole gradient."""
        norms = [torch.linalg.vector_norm(buffer.gradient).item() for buffer in self.buffers]
        return norms[0] if len(norms) == 1 else math.hypot(*norms)


class FlatAdam:
    """Adam over named modules, each with a learning rate and a limit of its gradient's norm.

    The parameters stay what they are to their modules (names, shapes, types, state_dict); they become views of one
    vector for each type, and so do their gradients.  A parameter that gets no gradient in a backward pass keeps a zero
    gradient.
    """

    def __init__(
        self,
        modules: Mapping[str, tuple[Module, float]],
        *,
        max_norm: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """Take over the parameters of `modules` (name -> module, learning rate); frozen ones are left alone.

        Raises InputError where a module has nothing to learn, where parameters lie on several devices, or where one is
        no plain tensor (a sharded one, say), which cannot become a view.
        """
        self.max_norm, self.betas, self.epsilon, self.steps = max_norm, betas, epsilon, 0
        lists = {name: _learned(name, module) for name, (module, _) in modules.items()}
        everything = [p for list_ in lists.values() for p in list_]
        device = everything[0].device
        for name, list_ in lists.items():
            for p in list_:
                if p.device != device:
                    raise problem(name, f"parameters on one device, {device}", str(p.device))
        self._count = torch.zeros((), device=device)  # `steps` as the kernel wants it
        self.buffers: dict[torch.dtype, _Buffer] = {}
        spans: dict[str, list[_Buffer]] = {name: [] for name in modules}
        for kind in dict.fromkeys(p.dtype for p in everything):
            size = sum(padded(p) for p in everything if p.dtype == kind)
            whole = _Buffer(*(torch.zeros(size, dtype=kind, device=device) for _ in range(4)))
            self.buffers[kind], start = whole, 0
            for name, list_ in lists.items():
                if own := [p for p in list_ if p.dtype == kind]:
                    end = start + sum(padded(p) for p in own)
                    spans[name].append(_take_over(own, whole.span(start, end)))
                    start = end
        self.parts = {name: _Part(spans[name], rate, rate) for name, (_, rate) in modules.items()}

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        for buffer in self.buffers.values():
            buffer.gradient.zero_()

    def gradients(self) -> list[Tensor]:
        """Return the gradients, one vector a type."""
        return [buffer.gradient for buffer in self.buffers.values()]

    def rate(self, name: str) -> float:
        """Return the present learning rate of a module."""
        return self.parts[name].rate

    def set_rates(self, factor: float) -> None:
        """Set each learning rate to `factor` times what it was at the start."""
        for part in self.parts.values():
            part.rate = part.base_rate * factor

    def clip(self) -> dict[str, float]:
        """Scale each module's gradient to a norm of at most `max_norm`; return the norms before, by module."""
        norms = {}
        for name, part in self.parts.items():
            norms[name] = norm = part.norm()
            if norm > self.max_norm:
                for buffer in part.buffers:
                    buffer.gradient.mul_(self.max_norm / (norm + 1e-6))
        return norms

    @torch.no_grad()
    def step(self) -> None:
        """Make one step of Adam."""
        self.steps += 1
        self._count.fill_(self.steps)
        for part in self.parts.values():
            for buffer in part.buffers:
                lists = ([buffer.parameter], [buffer.gradient], [buffer.first], [buffer.second])
                fused_adam(*lists, self._count, part.rate, self.betas, self.epsilon)

    def restart(self) -> None:
        """Forget moments and steps, as if nothing had been learned."""
        for buffer in self.buffers.values():
            buffer.first.zero_()
            buffer.second.zero_()
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the moments by type and the count of steps (parameters belong to their modules)."""
        moments = {
            str(kind).removeprefix("torch."): {"first": buffer.first.clone(), "second": buffer.second.clone()}
            for kind, buffer in self.buffers.items()
        }
        return {"moments": moments, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        for kind, buffer in self.buffers.items():
            moments = state["moments"][str(kind).removeprefix("torch.")]
            buffer.first.copy_(moments["first"])
            buffer.second.copy_(moments["second"])
        self.steps = int(state["steps"])


def _take_over(parameters: list[nn.Parameter], span: _Buffer) -> _Buffer:
    """Make the parameters and their gradients views of `span`, one after the other; return it."""
    start = 0
    for p in parameters:
        view = span.parameter[start : start + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data, p.grad = view, span.gradient[start : start + p.numel()].view_as(p)
        start += padded(p)
    return span


def _learned(name: str, module: Module) -> list[nn.Parameter]:
    """Return the parameters of `module` that learn."""
    found = [p for p in module.parameters() if p.requires_grad]
    if not found:
        raise problem(name, "a module with parameters that learn", "none", "is all of it frozen?")
    for p in found:
        if is_part(p.data):
            remedy = "shard after the optimiser is made, or give the learner another optimiser"
            raise problem(name, "parameters that are plain tensors", type(p.data).__name__, remedy)
    return found


def fused_adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    count: Tensor,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Make Adam's step number `count` (a scalar of theirs) of some parameters, in place, as are their moments."""
    torch._fused_adam_(
        parameters,
        gradients,
        first,
        second,
        [],
        [count] * len(parameters),
        lr=rate,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )


def padded(p: Tensor) -> int:
    """Return how many numbers of a vector a parameter takes."""
    return -(-p.numel() // ALIGNMENT) * ALIGNMENT
