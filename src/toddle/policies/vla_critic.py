"""The critic of a VLA that RL trains: proprioception and what a frozen backbone says of pictures and sentence, or what
the simulator alone knows (asymmetric actor-critic, Pinto et al. 2018, arXiv 1710.06542)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.numbers import Seed, Size, SizeOrNone
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation
from toddle.models.normalizer import RunningNorm
from toddle.models.tanh_mlp import TanhMLP

__all__ = ["VLACritic", "VLACriticConfig"]


@config
class VLACriticConfig:
    """A critic of contexts."""

    proprio: Size
    """O, numbers of proprioception, or of the simulator's state."""
    key: Literal["proprio", "critic"] = "proprio"
    """Which of the observation's numbers it reads; `critic` is the simulator's state."""
    context: SizeOrNone = 0
    """D, width of the backbone's context tokens; 0: it sees proprioception alone."""
    width: Size = 64
    """Width of a pooled token."""
    queries: Size = 4
    """Learned queries, each of which pools the context tokens by attention."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers."""
    values: Size = 1
    """Values of a decision: one, or one for each action of its chunk."""
    seed: Seed = 0
    """Seed of the weights."""


class VLACritic(nn.Module):
    """V(o) of proprioception and attention-pooled context tokens, by a network that shares nothing with the policy."""

    def __init__(self, config: VLACriticConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config = config
        self.norm = RunningNorm([config.proprio])
        generator = torch_generator(config.seed, "vla critic")
        inputs = config.proprio
        self.sees = config.context > 0
        if self.sees:
            self.context_norm = nn.LayerNorm(config.context)
            self.keys, self.values = (
                nn.Parameter(torch.randn(config.context, config.width, generator=generator) * config.context**-0.5)
                for _ in range(2)
            )
            self.queries = nn.Parameter(torch.randn(config.queries, config.width, generator=generator))
            inputs += config.queries * config.width
        # Values begin near 0: where success pays 1 and ends the episode, a critic that begins above 1 and bootstraps at
        # time limits teaches the policy to avoid success.
        self.mlp = TanhMLP(inputs, config.hidden, config.values, last_gain=0.01, generator=generator)

    def value(self, observation: Observation) -> Tensor:
        """Return values (...), or (..., values), of observations (..., O) with, where it reads them, `context` and
        `context_mask`."""
        parts = [self.norm(observation[self.config.key])]
        if self.sees:
            tokens = self.context_norm(observation["context"].float())
            logits = (tokens @ self.keys) @ self.queries.T * self.config.width**-0.5  # (..., G, queries)
            logits = logits.masked_fill(~observation["context_mask"][..., None], float("-inf"))
            pooled = logits.softmax(-2).transpose(-1, -2) @ (tokens @ self.values)
            parts.append(pooled.flatten(-2))
        value: Tensor = self.mlp(torch.cat(parts, -1))
        return value.squeeze(-1) if self.config.values == 1 else value

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics of their numbers."""
        self.norm.update(observation[self.config.key])
