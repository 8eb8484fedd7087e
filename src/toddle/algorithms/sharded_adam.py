"""Adam over modules of which some are shared out among several learners (`models.sharded`), others whole in each.

The same steps as `FlatAdam` to rounding, and a state of the same form: a checkpoint of either goes on in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toddle.core.protocols import Module
from toddle.core.team import team
from toddle.core.tensors import is_part
from toddle.models.sharded import clip, own_part, put, whole
from toddle.optim.flat_adam import fused_adam, padded

__all__ = ["ShardedAdam"]


class ShardedAdam:
    """Adam over named modules, each with a learning rate and a limit of its gradient's norm."""

    def __init__(
        self,
        modules: Mapping[str, tuple[Module, float]],
        *,
        max_norm: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """Take the parameters of `modules` (name -> module, learning rate) that learn; those that are to be shared out
        already are."""
        self.max_norm, self.betas, self.epsilon, self.steps = max_norm, betas, epsilon, 0
        self.weights = {
            name: [p for p in module.parameters() if p.requires_grad] for name, (module, _) in modules.items()
        }
        self.base = {name: rate for name, (_, rate) in modules.items()}
        self.rates, self.team = dict(self.base), team()
        everything = self._all()
        self.moments = [{id(p): torch.zeros_like(p.detach()) for p in everything} for _ in range(2)]
        self._count = torch.zeros((), device=everything[0].device)

    def _all(self) -> list[nn.Parameter]:
        return [p for own in self.weights.values() for p in own]

    def zero_grad(self) -> None:
        """Forget every gradient."""
        for p in self._all():
            p.grad = None

    def gradients(self) -> list[Tensor]:
        """Return the gradients of what is whole here, to be summed over learners (of the rest: `sum_up`)."""
        return [p.grad for p in self._all() if p.grad is not None and not is_part(p)]

    def sum_up(self) -> None:
        """Make sums over learners of the gradients of what is shared out, whose means torch forms."""
        for p in self._all():
            if p.grad is not None and is_part(p):
                own_part(p.grad).mul_(self.team.size)

    def rate(self, name: str) -> float:
        """Return the present learning rate of a module."""
        return self.rates[name]

    def set_rates(self, factor: float) -> None:
        """Set each learning rate to `factor` times what it was at the start."""
        self.rates = {name: rate * factor for name, rate in self.base.items()}

    def clip(self) -> dict[str, float]:
        """Scale each module's gradient to a norm of at most `max_norm`; return the norms before, by module."""
        return {name: clip(own, self.max_norm, self.team) for name, own in self.weights.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Make one step of Adam; what has no gradient has one of zeros."""
        self.steps += 1
        self._count.fill_(self.steps)
        for name, own in self.weights.items():
            here = [p for p in own if own_part(p.detach()).numel()]
            weights = [own_part(p.detach()) for p in here]
            gradients = [own_part(torch.zeros_like(p) if p.grad is None else p.grad) for p in here]
            first, second = ([own_part(kept[id(p)]) for p in here] for kept in self.moments)
            fused_adam(weights, gradients, first, second, self._count, self.rates[name], self.betas, self.epsilon)

    def restart(self) -> None:
        """Forget moments and steps, as if nothing had been learned."""
        for kept in self.moments:
            for moment in kept.values():
                moment.zero_()
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the whole moments by type, as `FlatAdam` lays them out, and the count of steps; all learners call it
        together."""
        names = ("first", "second")
        found: dict[str, dict[str, list[Tensor]]] = {}
        for p in self._all():
            kinds = found.setdefault(str(p.dtype).removeprefix("torch."), {name: [] for name in names})
            for name, kept in zip(names, self.moments, strict=True):
                flat = whole(kept[id(p)]).flatten()
                kinds[name].append(torch.cat([flat, flat.new_zeros(padded(p) - len(flat))]))
        joined = {kind: {name: torch.cat(parts) for name, parts in each.items()} for kind, each in found.items()}
        return {"moments": joined, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them; of what is shared out each learner takes its part."""
        starts = dict.fromkeys(state["moments"], 0)
        for p in self._all():
            kind = str(p.dtype).removeprefix("torch.")
            for name, kept in zip(("first", "second"), self.moments, strict=True):
                full = state["moments"][kind][name][starts[kind] : starts[kind] + p.numel()].view(p.shape)
                kept[id(p)].copy_(put(kept[id(p)], full))
            starts[kind] += padded(p)
        self.steps = int(state["steps"])
