"""DenoisingPolicy: a chunk drawn through a chain of denoising links, by diffusion or by a flow (DPPO, ReinFlow, ...).

The observation is encoded once per decision; acting runs the network once per link, scoring runs it once for all links
of a minibatch.  The chain is one vector per decision (B, C): x of the first scored link and after every scored link,
(L + 1) H A numbers (where one random step is stochastic: x before and after it, and its index: `links`); with a trunk
that hides goals now and then, one number more: whether it was hidden.
Sources: DPPO (arXiv 2409.00588), ReinFlow (arXiv 2505.22094), pi_RL (Flow-SDE, Flow-Noise; arXiv 2510.25889).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Finite
from toddle.core.seeding import randn
from toddle.core.types import Decision, Observation, Score
from toddle.policies.chain import Reduce, draw_chain, link_density
from toddle.policies.chunk import ChunkPolicy
from toddle.policies.denoising_network import ChunkConfig, DenoisingNetwork, rows_of
from toddle.policies.links import DiffusionConfig, FlowConfig

__all__ = ["DenoisingConfig", "DenoisingPolicy"]


@config
class DenoisingConfig(ChunkConfig):
    """A diffusion or flow policy over action chunks whose links have densities."""

    process: DiffusionConfig | FlowConfig = DiffusionConfig()
    """How the chunk is drawn."""
    reduce: Reduce = "mean"
    """How a link's log-density is formed from its dimensions.  DPPO and Flow-GRPO average (their clip ranges are small
    for that reason); with sum expect larger ratios."""
    log_prob_bounds: tuple[Finite, Finite] = (-5.0, 2.0)
    """Bounds of each dimension's log-density (DPPO); 2 cuts gradients where the standard deviation is below 0.05."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_prob_bounds[0] > self.log_prob_bounds[1]:
            raise problem("log_prob_bounds", "low <= high", f"{self.log_prob_bounds}")


class DenoisingPolicy(ChunkPolicy):
    """A policy over chunks whose links are Gaussians, from noise to the action."""

    kind: ClassVar[str] = "denoising"

    def __init__(self, config: DenoisingConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__(config, config.process)
        self.config = config
        self.disturb: Callable[[int, Tensor], Tensor] | None = None
        """What acting makes of the features (M, F) at a step, where one who explores has set it."""
        if len(self.links.tuned) < self.links.steps:
            self.finish_imitation()

    @classmethod
    def from_config(cls, config: DenoisingConfig) -> DenoisingPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def finish_imitation(self) -> None:
        """Copy the network as it is now into the frozen base that draws the steps before the last K'."""
        if len(self.links.tuned) == self.links.steps:
            return
        if self.base is None:
            self.base = copy.deepcopy(self.tuned).requires_grad_(False)
        else:
            self.base.load_state_dict(self.tuned.state_dict())

    def _link(
        self,
        network: DenoisingNetwork,
        features: Tensor,
        shared: Any,
        x: Tensor,
        index: Tensor,
        *,
        spread: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the links `index` (L,) or (M, L) at chunks x (M, L, H, A)."""
        time = self.links.times[index]
        if network.spread is not None and not deterministic:
            spread = network.std(features, time, x.shape[1])
        return self.links.link(x, network.predict(shared, x, time), index, spread, deterministic=deterministic)

    def _density(self, y: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-density (M, L) of chunks y (M, L, H, A) and entropy (M,): executed actions alone, reduced."""
        config = self.config
        std = self.links.log_prob_std(std)
        return link_density(y, mean, std, self.horizon, config.reduce, config.log_prob_bounds)

    # ---- acting --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations.

        `deterministic`: no noise after the first draw (DDIM with eta 0, the flow's ODE); DDPM keeps the schedule's own
        noise but at its last step.  The chain is then there for its shape alone and its log-density is 0.
        """
        features, links = self._features(observation), self.links
        x = randn(self._shape(len(features)), generator, features.device)
        single = links.draw_single(len(x), generator, x.device)
        first, dropped = links.steps - len(links.tuned), self._dropped(len(x), deterministic, generator)
        networks = [network for network in (self.tuned, self.base) if network is not None]
        shared = {network: network.encode(observation, features, dropped) for network in networks}

        def link(step: int, x: Tensor, index: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
            network = self.tuned if step >= first or self.base is None else self.base
            seen, known = features, shared[network]
            if self.disturb is not None:
                seen = self.disturb(step, features)
                known = network.encode(observation, seen, dropped)
            return self._link(network, seen, known, x, index, spread=level, deterministic=deterministic)

        x, chain, log_prob = draw_chain(
            links, x, single, link, self._density, generator, first=first, deterministic=deterministic
        )
        if dropped is not None:
            chain = torch.cat([chain, dropped[:, None].to(chain.dtype)], 1)
        return Decision(x[:, : self.horizon], chain, log_prob), None

    # ---- scoring -------------------------------------------------------------------------------------------------
    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, C): log_prob (T, B, L), entropy (T, B), the mean over links and dimensions.

        The mean action is the last scored link's.
        """
        lead = chain.shape[:-1]
        flat, dropped = self._split(chain.flatten(0, -2))
        features = self._features(observation)
        shared = self.tuned.encode(rows_of(observation), features, dropped)
        states, index = self.links.unpack(flat, (self.config.horizon, self.config.body.action))
        mean, std = self._link(self.tuned, features, shared, states[:, :-1], index)
        log_prob, entropy = self._density(states[:, 1:], mean, std)
        action = mean[:, -1, : self.horizon]
        return Score(*(value.unflatten(0, lead) for value in (log_prob, entropy, action)))
