"""OptimisedPolicy: a VLA of any kind draws several chunks, and the learner decides what is executed.

It is never stored: what is kept of a run is the VLA itself, which has learned to draw what was executed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.protocols import Memory
from toddle.core.seeding import rand
from toddle.core.types import Decision, Observation
from toddle.policies.around import decided, repeated, state_of

__all__ = ["OptimisedPolicy"]

Choose = Callable[[Tensor, torch.Generator | None], Tensor]
"""Chunks (B, N) to execute at states (B, O)."""


class OptimisedPolicy(nn.Module):
    """K chunks of a VLA's, and one that `choose` makes of them.

    A decision's state (B, O) is what the critics see (proprioception and the mean of the backbone's tokens, `seen`
    numbers) and after it the K chunks, so that nobody has to ask the VLA again; its chain (B, N) is what was executed.
    `share`, a buffer, is the probability that `choose` decides; else the first chunk is executed: the VLA alone.
    """

    kind: ClassVar[str] = "optimised"
    sequential = False
    config = None
    share: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, vla: Any, draws: int, low: Tensor, high: Tensor) -> None:
        """Act with K = `draws` chunks of `vla`, held to [low, high] (A,).

        Raises InputError for a VLA whose backbone's tokens are not kept, with a history, or of several bodies.
        """
        super().__init__()
        if not vla.context_width:
            raise problem("policy", "a VLA whose backbone is frozen, so that its tokens are kept", f"kind '{vla.kind}'")
        if vla.window_sizes[1] > 1:
            raise problem("policy", "a VLA without history", f"one of {vla.window_sizes[1]} decisions")
        if len(vla.bodies) > 1:
            raise problem("policy", "a VLA of one body", ", ".join(body.name for body in vla.bodies))
        self.vla, self.draws = vla, draws
        self.horizon, self.bodies, self.cameras = vla.horizon, vla.bodies, vla.cameras
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("low", low.repeat(self.horizon), persistent=False)
        self.register_buffer("high", high.repeat(self.horizon), persistent=False)
        self.alone: Tensor | None = None
        self.choose: Choose | None = None

    @property
    def actor(self) -> Any:
        """What learns: the VLA (`core.protocols.FineTunable`), which says nothing of states alone."""
        return self.vla

    @property
    def seen(self) -> int:
        """Numbers of a state that critics see."""
        return int(self.bodies[0].proprio + self.vla.context_width)

    @property
    def state_sizes(self) -> tuple[int, int]:
        """O, numbers of a state with its chunks, and N, numbers of a chunk."""
        chunk = self.horizon * self.bodies[0].action
        return self.seen + self.draws * chunk, chunk

    def candidates(self, state: Tensor) -> Tensor:
        """Return the chunks (..., K, N) in states (..., O)."""
        return state[..., self.seen :].unflatten(-1, (self.draws, -1))

    def initial_memory(self, batch: int) -> Memory:
        """Nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation with the frozen backbone's features in place of pictures and sentence."""
        found: Observation = self.vla.encode(observation)
        return found

    @torch.no_grad()
    def state(self, observation: Observation, generator: torch.Generator | None = None) -> Tensor:
        """Return states (B, O) with newly drawn chunks."""
        seen = self.encode(observation)
        state = state_of(seen)
        action = decided(self.vla, repeated(seen, self.draws), generator, False).action[..., : self.bodies[0].action]
        chunks = torch.minimum(torch.maximum(action.flatten(1), self.low), self.high)
        return torch.cat([state, chunks.view(len(state), -1)], -1)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations; there is nothing without drawing, so `deterministic` changes nothing."""
        state, share = self.state(observation, generator), float(self.share)
        action = self.candidates(state)[:, 0]
        own = torch.full((len(action), 1), share > 0.0, device=action.device)
        if 0.0 < share < 1.0:
            own = rand((len(action), 1), generator, action.device) < share
        if self.alone is not None:
            own = own & ~self.alone[:, None]
        if self.choose is not None and own.any():
            action = torch.where(own, self.choose(state, generator), action)
        chunk = action.view(len(action), self.horizon, -1)
        return Decision(chunk, action, action.new_zeros(len(action), 0), state=state), None
