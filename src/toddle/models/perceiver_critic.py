"""A critic that attends to context tokens and sees the action last, as a query (PAC, arXiv 2402.05546; Perceiver IO,
Jaegle et al. 2021, arXiv 2107.14795): K actions of a state cost one reading of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.seeding import torch_generator
from toddle.models.attention_block import AttentionBlock
from toddle.models.normalizer import RunningNorm

__all__ = ["PerceiverCritic"]

Keys = tuple[Tensor, Tensor]


class PerceiverCritic(nn.Module):
    """Numbers of a state as tokens -> latents -> a distribution of Q over N bins for each action that asks."""

    atoms: Tensor

    def __init__(
        self, observation: int, action: int, *, width: int, latents: int, low: float, high: float, bins: int, seed: int
    ) -> None:
        """Build it for O numbers of state, A of action, bins from `low` to `high`; weights follow from `seed`."""
        super().__init__()
        self.scale = RunningNorm((observation,))
        self.register_buffer("atoms", torch.linspace(low, max(high, low + 1e-6), bins))
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=torch_generator(seed, "perceiver critic"))))
            self.names, self.sizes = (nn.Parameter(torch.randn(observation, width)) for _ in range(2))
            self.latents, self.of_action = nn.Parameter(torch.randn(latents, width)), nn.Linear(action, width)
            self.read, self.ask = (AttentionBlock(width, 1, itself=False) for _ in range(2))
            self.think, self.out = AttentionBlock(width, 1, itself=True), nn.Linear(width, bins)

    def tokens(self, observation: Tensor) -> Tensor:
        """Return a token (B, O, d) for each number of observations (B, O): its name, and its size along a direction."""
        return self.names + self.scale(observation)[..., None] * self.sizes

    def context(self, tokens: Tensor) -> Keys:
        """Return what actions will ask, of a set of tokens (B, G, d) in any order."""
        x = self.read(self.latents.expand(len(tokens), -1, -1), self.read.keys(tokens))
        return self.ask.keys(self.think(x))

    def log_probs(self, context: Keys, action: Tensor) -> Tensor:
        """Return log-probabilities (B, K, N) of the bins for actions (B, K, A), each asked alone."""
        return torch.log_softmax(self.out(self.ask(self.of_action(action), context)), -1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log-probabilities (B, K, N) at observations (B, O) for actions (B, K, A)."""
        return self.log_probs(self.context(self.tokens(observation)), action)
