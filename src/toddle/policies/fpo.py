"""FPOPolicy: a flow whose ratio is a change of its flow-matching loss (McAllister et al. 2025, arXiv 2507.21053).

It is no chain of links: the action is drawn by the flow's ODE from noise, which has no density that could be had.  In
its place stands minus the flow-matching loss at N stored pairs (tau, eps), one number a decision (L = 1); its change is
the paper's log ratio (eq. 8).  The chain is one vector per decision (B, C): the action H A, N noises H A each, N flow
times; with a trunk that hides goals now and then, one number more: whether it was hidden.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.numbers import Size
from toddle.core.seeding import randint, randn
from toddle.core.types import Decision, Observation, Score
from toddle.maths.flow import interpolate
from toddle.policies.chunk import ChunkPolicy
from toddle.policies.denoising_network import ChunkConfig, rows_of
from toddle.policies.links import FlowConfig

__all__ = ["FPOConfig", "FPOPolicy"]

TIMES = 10
"""Flow times are drawn from the grid 0, 1/10, ..., 9/10, as in the released code."""


@config
class FPOConfig(ChunkConfig):
    """A flow policy over action chunks, scored by its flow-matching loss."""

    steps: Size = 10
    """K, Euler steps from noise to the chunk."""
    samples: Size = 8
    """N, pairs (tau, eps) stored with each action."""


class FPOPolicy(ChunkPolicy):
    """A policy that draws a chunk by the ODE of its flow and scores it by the flow-matching loss."""

    kind: ClassVar[str] = "fpo"

    def __init__(self, config: FPOConfig) -> None:
        """Build the network; the weights follow from `config.seed`."""
        super().__init__(config, FlowConfig(steps=config.steps, noise="flow_sde"))  # no spread: the ODE alone is used
        self.config = config

    @classmethod
    def from_config(cls, config: FPOConfig) -> FPOPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; the noise that the flow begins with is all that is drawn for the action."""
        batch, count = len(observation["proprio"]), self.config.samples
        device = observation["proprio"].device
        noise = randn(self._shape(batch), generator, device)
        dropped = self._dropped(batch, deterministic, generator)
        action = self.integrate(observation, noise, dropped)
        eps = randn(self._shape(batch, count), generator, device)
        tau = randint(TIMES, (batch, count), generator, device) / TIMES
        chain = torch.cat([action.flatten(1), eps.flatten(1), tau], 1)
        shared = self.tuned.encode(rows_of(observation), self._features(observation), dropped)
        log_prob, _ = self._log_prob(shared, chain)
        if dropped is not None:
            chain = torch.cat([chain, dropped[:, None].to(chain.dtype)], 1)
        return Decision(action[:, : self.horizon], chain, log_prob), None

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, C): log_prob (T, B, 1), entropy (T, B) of 0 (it has none), no mean."""
        lead = chain.shape[:-1]
        flat, dropped = self._split(chain.flatten(0, -2))
        shared = self.tuned.encode(rows_of(observation), self._features(observation), dropped)
        log_prob, entropy = self._log_prob(shared, flat)
        return Score(log_prob.unflatten(0, lead), entropy.unflatten(0, lead))

    def _log_prob(self, shared: Any, chain: Tensor) -> tuple[Tensor, Tensor]:
        """Return minus the flow-matching loss (M, 1) at the stored (tau, eps), and zeros (M,)."""
        count, size = self.config.samples, math.prod(self._shape())
        action, noise, tau = chain.split([size, count * size, count], 1)
        target, eps = action.unflatten(1, self._shape(1)), noise.unflatten(1, self._shape(count))
        x = interpolate(eps, target, tau)
        velocity = self.tuned.predict(shared, x, tau)
        predicted = x - tau[..., None, None] * velocity  # the noise this velocity implies
        loss = (predicted - eps).square()[..., : self.horizon, :].flatten(2).mean(-1)
        return -loss.mean(1, keepdim=True), torch.zeros_like(loss[:, 0])
