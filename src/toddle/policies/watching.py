"""An RL policy that acts by its goals, while a VLA's backbone reads the pictures and sentences of the same moments."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from toddle.core.protocols import Acting, Memory
from toddle.core.types import Decision, Observation, sentences_of
from toddle.models.backbones.base import Backbone

__all__ = ["WatchingPolicy"]


class WatchingPolicy(nn.Module):
    """`base`; its encoded observations have the backbone's tokens too: `context` (B, G, D) float16, `context_mask`."""

    kind: ClassVar[str] = "watching"

    def __init__(self, base: Acting, backbone: Backbone, cameras: tuple[str, ...]) -> None:
        super().__init__()
        self.base, self._held = base, [backbone]
        self.horizon, self.sequential, self.bodies, self.cameras = base.horizon, base.sequential, base.bodies, cameras

    def initial_memory(self, batch: int) -> Memory:
        """Return the base's."""
        return self.base.initial_memory(batch)

    @torch.no_grad()
    def encode(self, observation: Observation) -> Observation:
        """Return what the base keeps, with the backbone's tokens in place of pictures and sentence."""
        raw, mask = self._held[0].encode(observation["images"], sentences_of(observation))
        kept: Any = {key: value for key, value in observation.items() if key not in ("images", "instruction", "task")}
        made: Any = {**self.base.encode(kept), "context": raw.half(), "context_mask": mask}
        return made

    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Return the base's decision at what it sees itself."""
        own: Any = {key: value for key, value in observation.items() if key not in ("context", "context_mask")}
        return self.base.act(own, memory, generator=generator, deterministic=deterministic)
