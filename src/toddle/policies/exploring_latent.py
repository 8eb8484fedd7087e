"""OnManifold: a policy whose actions are moved along what actions of the data have in common (SOE, arXiv 2509.19292).

    a = a_policy(o) + decode(mu(o) + size sigma(o) n) - decode(mu(o)),    n ~ N(0, I), held for `hold` decisions

over a bottleneck beside the policy (`models.bottleneck`), of which the policy knows nothing.  With size 0 it is the
policy, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.protocols import Memory
from toddle.core.seeding import randn
from toddle.core.types import Decision, Observation
from toddle.models.bottleneck import Bottleneck
from toddle.policies.around import decided, seen_width, state_of
from toddle.policies.exploring import Exploring

__all__ = ["OnManifold"]


class OnManifold(Exploring):
    """`base`, moved in the latent numbers that are heard.

    control: as far, and for as long, in a drawn direction of all numbers of the chunk.
    """

    def __init__(self, base: Any, bottleneck: Bottleneck, size: float, *, hold: int = 5, control: bool = False) -> None:
        """Raises InputError for a bottleneck of other numbers than the policy's."""
        super().__init__(base)
        sizes = seen_width(base), base.horizon * base.bodies[0].action
        found = bottleneck.norm.mean.shape[-1], bottleneck.chunk.shape[1]
        if found != sizes:
            wanted = "rows of {} numbers and chunks of {}".format(*sizes)
            raise problem("soe.dataset", wanted, "{} and {}".format(*found))
        self.bottleneck, self.size, self.hold, self.control = bottleneck, size, hold, control

    def initial_memory(self, batch: int) -> Memory:
        """Return the decisions made (B,) and the noise that is held: of latent numbers, and of the chunk's."""
        made, (latent, chunk) = torch.zeros(batch, dtype=torch.int64), self._widths
        return made, torch.zeros(batch, latent), torch.zeros(batch, chunk)

    @property
    def _widths(self) -> tuple[int, int]:
        return len(self.bottleneck.heard), self.bottleneck.chunk.shape[1]

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations."""
        seen = self.encode(observation)
        own = decided(self.base, seen, generator, deterministic)
        if self.size == 0.0:
            return own, memory
        worlds = len(own.action)
        made, *held = self.initial_memory(worlds) if memory is None else memory
        made = torch.where(seen["first"], 0, made)
        fresh = (made % self.hold == 0)[:, None]
        latent, drawn = (torch.where(fresh, randn(old.shape, generator, own.action.device), old) for old in held)
        moved = self.moved(state_of(seen), latent)
        if self.control:
            moved = drawn * moved.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
        action = own.action.clone()
        action[..., : self.bodies[0].action] += moved.view(worlds, self.horizon, -1)
        return Decision(action, own.chain, own.log_prob.new_zeros(worlds, 0)), (made + 1, latent, drawn)

    def moved(self, state: Tensor, latent: Tensor) -> Tensor:
        """Return how chunks (N, C) at states (N, D) are moved by latent noise (N, Z)."""
        mean, std = self.bottleneck.encode(state)
        there = mean + self.size * std * latent * self.bottleneck.heard
        return self.bottleneck.decode(there) - self.bottleneck.decode(mean)
