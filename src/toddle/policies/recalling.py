"""RecallingPolicy: a policy that remembers recorded episodes and does partly what was done there.

    strap    the last decisions are matched with parts of demonstrations by dynamic time warping (STRAP, arXiv
             2412.15182, finds its training data so; S2's survey describes it as a memory while acting, as here)
    ra-dt    the present state is looked up among the policy's own episodes; of the nearest, those with the better
             return count more (after RA-DT, Schmied et al. 2024, arXiv 2410.07071)

What is done is (1 - w) of the policy's chunk and w of the neighbours', w = `share` at distance 0 and none from `radius`
on, so far from everything remembered the policy acts alone, and with share 0 or an empty memory it does so bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Share, Size
from toddle.core.protocols import Memory
from toddle.core.types import Decision, Observation
from toddle.maths.retrieval import blend_weights, distances, subsequence_costs
from toddle.policies.around import Around, decided, seen_width, state_of

__all__ = ["RecallConfig", "RecallingPolicy", "Remembered"]


@config
class RecallConfig:
    """How recorded episodes have their say."""

    share: Share = 0.3
    """Share of the action that is the neighbours', where they are at distance 0."""
    radius: Positive = 1.0
    """Distance from which a neighbour has no say, in the typical distance of a row to the nearest one of another
    episode."""
    window: Size = 4
    """strap: decisions that are matched."""
    neighbours: Size = 5
    """Neighbours that are averaged."""


@dataclass(frozen=True)
class Remembered:
    """Rows of recorded episodes."""

    state: Tensor
    """(M, D), what a policy's critics would see."""
    chunk: Tensor
    """(M, H, A), what was done from there on."""
    begins: Tensor
    """(M,) bool, the first row of an episode."""
    worth: Tensor
    """(M,) in [0, 1]: 1 the best return of an episode, 0 the worst; 1 where all are equal."""


class RecallingPolicy(Around):
    """`base` with a memory of episodes."""

    kind: ClassVar[str] = "recalling"

    def __init__(self, base: Any, remembered: Remembered, config: RecallConfig, *, warped: bool) -> None:
        """warped: strap, else ra-dt.  Raises InputError for a policy that remembers already, or rows of other sizes."""
        super().__init__(base)
        self.config, self.warped = config, warped
        body, wide = base.bodies[0], seen_width(base)
        sizes = remembered.state.shape[1], *remembered.chunk.shape[1:]
        if sizes != (wide, base.horizon, body.action):
            wanted = f"rows of {wide} numbers and {base.horizon} actions of {body.action}"
            raise problem("steering.memory", wanted, f"{sizes[0]} and {sizes[1]} of {sizes[2]}")
        self.remembered = remembered
        self.mean, self.scale, self.unit = torch.zeros(wide), torch.ones(wide), 1.0
        if len(remembered.state):
            self.mean, deviation = remembered.state.mean(0), remembered.state.std(0, correction=0)
            self.scale = torch.where(deviation > 1e-6, deviation, torch.inf)  # what never differs says nothing
            self.keys = (remembered.state - self.mean) / self.scale
            self.unit = self._unit()

    def _unit(self) -> float:
        """Return the median distance of a row to the nearest row of another episode."""
        number = self.remembered.begins.cumsum(0)
        probes = torch.linspace(0, len(number) - 1, min(100, len(number)), device=number.device).long()
        apart = distances(self.keys[probes], self.keys)
        apart = torch.where(number[probes, None] == number, torch.inf, apart).amin(1)
        known = apart[apart.isfinite()]
        return max(float(known.median()), 1e-6) if len(known) else 1.0

    def initial_memory(self, batch: int) -> Memory:
        """Return the last decisions' distances to all rows (B, window, M), infinite where there were none."""
        rows = len(self.remembered.state)
        return torch.full((batch, self.config.window, rows), torch.inf, device=self.mean.device)

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
        if self.config.share == 0.0 or not len(self.remembered.state):
            return own, memory
        memory = self.initial_memory(len(own.action)) if memory is None else memory
        apart = distances((state_of(seen) - self.mean) / self.scale, self.keys) / self.unit
        past = torch.where(seen["first"][:, None, None], torch.inf, memory)
        memory = torch.cat([past[:, 1:], apart[:, None]], 1)
        cost = self._warped(memory) if self.warped else apart
        nearest, row = cost.topk(min(self.config.neighbours, cost.shape[1]), dim=1, largest=False)
        weight = blend_weights(nearest, self.config.radius)
        if not self.warped:
            weight = weight * self.remembered.worth[row]
        weight = self.config.share * weight
        said = (weight[..., None, None] * self.remembered.chunk[row]).sum(1)
        action = own.action[..., : said.shape[-1]]
        action = action + said - weight.sum(1)[:, None, None] * action
        return Decision(action, own.chain, own.log_prob.new_zeros(len(action), 0)), memory

    def _warped(self, past: Tensor) -> Tensor:
        """Return the mean distance (B, M) along the best part that ends at each row, over the decisions so far."""
        made = past[..., 0].isfinite().sum(1)
        found = torch.full_like(past[:, 0], torch.inf)
        for length in made.unique().tolist():
            rows = made == length
            found[rows] = subsequence_costs(past[rows, -length:], self.remembered.begins) / length
        return found
