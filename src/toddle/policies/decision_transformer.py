"""DecisionTransformer: a causal transformer over returns, states and actions that asks for a high return.

Decision Transformer (Chen et al. 2021, arXiv 2106.01345).  Deviations:
 1. It is not told a target from which rewards are taken off (a policy here sees no rewards): at every step it asks for
    the high expectile of the returns that it predicts from the state, as Elastic Decision Transformer (Wu et al. 2023,
    arXiv 2307.02484) does from several lengths of history.
 2. Returns are discounted, as shares of their range in the data.
 3. A step's position is its place in the window, not in the episode; no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Seed, Size
from toddle.core.seeding import torch_generator
from toddle.core.types import BodySpec, Decision, Observation
from toddle.models.attention_block import AttentionBlock
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["DecisionTransformer", "DecisionTransformerConfig", "Window"]


@config
class DecisionTransformerConfig:
    """A transformer of one body that decides single actions."""

    body: BodySpec
    """The embodiment."""
    window: Size = 20
    """K, steps that it looks back, this one counted."""
    width: Size = 128
    """Width of a token."""
    depth: Size = 3
    """Blocks."""
    heads: Size = 1
    """Heads of attention; a divisor of the width."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise problem("heads", f"a divisor of width {self.width}", self.heads)


@dataclass
class Window:
    """The last steps of B worlds, the newest last."""

    asked: Tensor
    """(B, K) shares of the range of returns."""
    state: Tensor
    """(B, K, O)"""
    action: Tensor
    """(B, K, A)"""
    real: Tensor
    """(B, K) bool, False before the episode began."""


class DecisionTransformer(nn.Module):
    """Tokens (return, state, action) of K steps; the action is read at its step's state, a tanh of a linear layer.

    It draws nothing: the chain is the action (B, A), its log-density 0.
    """

    kind: ClassVar[str] = "decision_transformer"
    sequential = True
    cameras: ClassVar[tuple[str, ...]] = ()
    horizon = 1

    def __init__(self, config: DecisionTransformerConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.bodies = config, (config.body,)
        width, states, actions = config.width, config.body.proprio, config.body.action
        self.scale = RunningNorm((states,))
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=torch_generator(config.seed, "dt"))))
            self.of_return, self.of_state = nn.Linear(1, width), nn.Linear(states, width)
            self.of_action = nn.Linear(actions, width)
            self.place = nn.Parameter(0.02 * torch.randn(config.window, width))
            self.blocks = nn.ModuleList([AttentionBlock(width, config.heads, itself=True) for _ in range(config.depth)])
            self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, actions)
            self.best = make_mlp([states, width, width, 1], "relu")

    @classmethod
    def from_config(cls, config: DecisionTransformerConfig) -> DecisionTransformer:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def initial_memory(self, batch: int) -> Window:
        """Return a window in which nothing has happened."""
        device, steps, body = self.place.device, self.config.window, self.config.body
        sizes = ((batch, steps), (batch, steps, body.proprio), (batch, steps, body.action))
        asked, state, action = (torch.zeros(size, device=device) for size in sizes)
        return Window(asked, state, action, torch.zeros(batch, steps, dtype=torch.bool, device=device))

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.scale.update(observation["proprio"])

    def best_return(self, state: Tensor) -> Tensor:
        """Return the return (...) that it asks for at states (..., O), as a share of the range in the data."""
        predicted: Tensor = self.best(self.scale(state))
        return predicted[..., 0]

    def mean(self, window: Window) -> Tensor:
        """Return the actions (B, K, A) at every step of windows, each from what was before it and its own return and
        state."""
        parts = self.of_return(window.asked[..., None]), self.of_state(self.scale(window.state))
        tokens = torch.stack([*parts, self.of_action(window.action)], 2) + self.place[:, None]
        x, real = tokens.flatten(1, 2), window.real.repeat_interleave(3, 1)
        before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # what is not real sees itself, not nothing
        mask = (before & real[:, None] | itself)[:, None]
        for block in self.blocks:
            x = block(x, mask=mask)
        found: Tensor = self.out(self.norm(x[:, 1::3]))
        return found.tanh()

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Window | None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Window]:
        """Decide for (B, ...) observations."""
        state = observation["proprio"]
        old = self.initial_memory(len(state)) if memory is None else memory
        real = old.real & ~observation["first"][:, None] if "first" in observation else old.real
        own = torch.ones_like(real[:, :1])

        def then(before: Tensor, now: Tensor) -> Tensor:
            return torch.cat([before[:, 1:], now[:, None]], 1)

        empty = torch.zeros_like(old.action[:, 0])
        asked, states = then(old.asked, self.best_return(state)), then(old.state, state)
        window = Window(asked, states, then(old.action, empty), torch.cat([real[:, 1:], own], 1))
        action = self.mean(window)[:, -1]
        window.action[:, -1] = action
        return Decision(action[:, None], action, torch.zeros_like(action[:, :1])), window
