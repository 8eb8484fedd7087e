"""VLAs that act by a flow, drawn with noise so that their decisions have densities: what RL trains of them.

An explorer holds the VLA itself: its expert and adapter are what learns, and what is kept afterwards; acting without
noise is the VLA's own ODE.  The noise is that of the samplers in `policies.links` (pi_RL, arXiv 2510.25889: Flow-SDE
and Flow-Noise; ReinFlow, arXiv 2505.22094), or the ratio is FPO's (arXiv 2507.21053), which needs no density.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Finite, Positive, Seed, Size
from toddle.core.protocols import Flowing, Memory
from toddle.core.seeding import randint, randn, torch_generator
from toddle.core.types import Decision, Observation, Score
from toddle.maths.distributions import Normal
from toddle.maths.flow import interpolate
from toddle.maths.flow_sde import squashed_std
from toddle.models.denoisers import TIME_FEATURES, time_features
from toddle.models.tanh_mlp import TanhMLP
from toddle.policies.chain import Reduce, draw_chain, link_density
from toddle.policies.links import FlowConfig, FlowLinks

__all__ = [
    "OF_FLOWS",
    "OF_TOKENS",
    "FlowExplorer",
    "MatchedFlow",
    "NoisyFlow",
    "SamplerConfig",
    "make_explorer",
    "refuse_without_effect",
]

OF_TOKENS = ("temperature", "ratio_per")
"""Fields of `SamplerConfig` for VLAs of tokens."""
OF_FLOWS = ("noise", "steps", "level", "std_range", "reduce", "log_prob_bounds", "samples")
"""Fields of `SamplerConfig` for VLAs of flows."""
TIMES = 10
"""FPO draws flow times from the grid 0, 1/10, ..., 9/10, as in its released code."""


@config
class SamplerConfig:
    """How a VLA explores."""

    noise: Literal["flow-sde", "flow-noise", "reinflow", "fpo"] = "flow-sde"
    """flow-sde: one step drawn at random is stochastic, with the flow's marginals (pi_RL); flow-noise, reinflow: a
    learned spread at every step; fpo: no noise but the flow's own, scored by the flow-matching loss."""
    steps: Size = 4
    """K, steps from noise to the chunk, for exploring and for the VLA's own ODE."""
    level: Positive = 0.5
    """flow-sde: noise level a."""
    std_range: tuple[Positive, Positive] = (0.08, 0.16)
    """flow-noise, reinflow: band of the learned standard deviation, in normalised actions."""
    reduce: Reduce = "mean"
    """How a link's log-density is formed from its dimensions."""
    log_prob_bounds: tuple[Finite, Finite] = (-5.0, 2.0)
    """Bounds of each dimension's log-density where it is averaged."""
    samples: Size = 8
    """fpo: N, pairs of flow time and noise stored with each decision."""
    temperature: Positive = 1.0
    """VLAs of tokens: logits are divided by it, when drawing and when scoring alike."""
    ratio_per: Literal["token", "action", "chunk"] = "action"
    """VLAs of tokens: whose log-probability a ratio is of (with ppo.ratio per_link); a token of FAST is of every action
    of its chunk, and the chunk stands for the action."""
    seed: Seed = 0
    """Seed of the spread's weights."""

    def __post_init__(self) -> None:
        for name in ("std_range", "log_prob_bounds"):
            low, high = getattr(self, name)
            if low > high:
                raise problem(name, "low <= high", f"{(low, high)}")


def refuse_without_effect(config: SamplerConfig, fields: Sequence[str], how: str) -> None:
    """Raise InputError where one of these fields is given (is not what it is by default): it would have no effect."""
    for name in fields:
        if (value := getattr(config, name)) != getattr(SamplerConfig, name):
            raise problem(f"sampler.{name}", f"nothing with a VLA that acts by {how}", value)


class FlowExplorer(nn.Module, ABC):
    """A flow VLA that explores.  What it shares with the VLA is asked of the VLA."""

    kind: ClassVar[str] = "explorer"

    def __init__(self, vla: Flowing, config: SamplerConfig) -> None:
        """Hold the VLA (a torch module), which from now on makes `config.steps` steps from noise to the chunk."""
        super().__init__()
        vla.set_flow_steps(config.steps)
        self.vla, self.config = vla, config
        self.horizon, self.bodies, self.cameras = vla.horizon, vla.bodies, vla.cameras
        self.sequential = vla.window_sizes[1] > 1

    def initial_memory(self, batch: int) -> Memory:
        """Return the VLA's empty memory."""
        return self.vla.initial_memory(batch)

    def encode(self, observation: Observation) -> Observation:
        """Return what is kept of an observation: the VLA's frozen features where it has them."""
        return self.vla.encode(observation)

    def update_normaliser(self, observation: Observation) -> None:
        """Leave the statistics as they are: the VLA was fine-tuned with them."""

    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Draw a chunk with noise; `deterministic`: the VLA's own, by its ODE from drawn noise."""
        if deterministic:
            return self.vla.act(observation, memory, generator=generator, deterministic=True)
        return self._explore(observation, memory, generator)

    def _counted(self, observation: Observation) -> Tensor:
        """Return (M, H_exec, A) float, 1 for the numbers of a chunk that are the body's own and that were executed, as
        far as that is known."""
        own = self.vla.own_numbers(observation).flatten(0, -2)[:, None].repeat(1, self.horizon, 1)
        if "executed" in observation:
            order = torch.arange(self.horizon, device=own.device)
            own = own * (order < observation["executed"].flatten()[:, None])[..., None]
        return own

    @abstractmethod
    def _explore(
        self, observation: Observation, memory: Memory, generator: torch.Generator | None
    ) -> tuple[Decision, Memory]:
        """Draw a chunk with noise."""


class NoisyFlow(FlowExplorer):
    """A flow VLA whose integration steps are Gaussians.  The chain is that of `policies.denoising.DenoisingPolicy`."""

    def __init__(self, vla: Flowing, config: SamplerConfig) -> None:
        """Add the links, and where the spread is learned its head on what the VLA sees."""
        super().__init__(vla, config)
        named: Any = config.noise.replace("-", "_")
        flow = FlowConfig(
            noise=named,
            steps=config.steps,
            level=config.level,
            std_range=config.std_range,
            one_random_step=config.noise == "flow-sde",
        )
        self.links = FlowLinks(flow)
        self.spread: TanhMLP | None = None
        if flow.learned_std:
            inputs = vla.summary_width + TIME_FEATURES
            generator = torch_generator(config.seed, "spread")
            self.spread = TanhMLP(inputs, (64, 64), math.prod(vla.flow_shape), last_gain=0.01, generator=generator)

    def _std(self, summary: Tensor | None, index: Tensor) -> Tensor | None:
        """Return the learned standard deviation (M, L, H, A) at the steps `index` (L,), or None."""
        if self.spread is None or summary is None:
            return None
        time = time_features(self.links.times[index])
        lead = (len(summary), len(index))
        inputs = torch.cat([summary[:, None].expand(*lead, -1), time.expand(*lead, -1)], -1)
        return squashed_std(self.spread(inputs), *self.config.std_range).unflatten(-1, self.vla.flow_shape)

    def _summary(self, observation: Observation) -> Tensor | None:
        return None if self.spread is None else self.vla.summary(observation).flatten(0, -2)

    def _explore(
        self, observation: Observation, memory: Memory, generator: torch.Generator | None
    ) -> tuple[Decision, Memory]:
        observation = self.vla.encode(observation)  # once, where it is frozen: the flow and the spread read it
        velocity, memory = self.vla.open_flow(observation, memory)
        summary, own = self._summary(observation), self._counted(observation)
        noise = randn((len(own), *self.vla.flow_shape), generator, own.device)
        single = self.links.draw_single(len(noise), generator, noise.device)

        @torch.no_grad()
        def link(step: int, x: Tensor, index: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
            spread = level if summary is None else self._std(summary, index)
            return self.links.link(x, velocity(x, self.links.times[index].expand(x.shape[:2])), index, spread)

        def density(y: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
            return self._density(y, mean, std, own)

        with torch.no_grad():
            chunk, chain, log_prob = draw_chain(self.links, noise, single, link, density, generator)
            return Decision(self.vla.executed(chunk, observation), chain, log_prob), memory

    def _density(self, y: Tensor, mean: Tensor, std: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        return link_density(y, mean, std, self.horizon, config.reduce, config.log_prob_bounds, own)

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, C): log_prob (T, B, L), entropy (T, B), the mean over links and dimensions.

        The mean action is the last scored link's.
        """
        lead, observation = chain.shape[:-1], self.vla.encode(observation)
        states, index = self.links.unpack(chain.flatten(0, 1), self.vla.flow_shape)
        x = states[:, :-1]
        tau = self.links.times[index].expand(x.shape[:2])
        velocity = self.vla.velocities(observation, x.unflatten(0, lead), tau.unflatten(0, lead)).flatten(0, 1)
        summary = self._summary(observation)
        mean, std = self.links.link(x, velocity, index, None if summary is None else self._std(summary, index))
        own = self._counted(observation)
        log_prob, entropy = self._density(states[:, 1:], mean, std, own)
        action = self.vla.executed(mean[:, -1].unflatten(0, lead), observation)
        drawn = self._distribution(mean, std.expand_as(mean), own, lead)
        return Score(log_prob.unflatten(0, lead), entropy.unflatten(0, lead), action, drawn)

    def _distribution(self, mean: Tensor, std: Tensor, own: Tensor, lead: torch.Size) -> Normal:
        """Return the links' Gaussians (..., L, E) of chunks (M, L, H, A), of the numbers that count."""
        mean, std = (part[:, :, : self.horizon].flatten(2).unflatten(0, lead) for part in (mean, std))
        count = 1.0 if self.config.reduce == "sum" else own.sum((1, 2), keepdim=True)
        weight = (own / count).flatten(1).unflatten(0, lead).unsqueeze(-2)
        return Normal(mean=mean, std=std, weight=weight)


class MatchedFlow(FlowExplorer):
    """A flow VLA whose ratio is the change of its flow-matching loss.  The chain: chunk, N noises, N flow times."""

    def _explore(
        self, observation: Observation, memory: Memory, generator: torch.Generator | None
    ) -> tuple[Decision, Memory]:
        velocity, memory = self.vla.open_flow(observation, memory)
        own, count = self._counted(observation), self.config.samples
        batch, device = len(own), own.device
        x = randn((batch, *self.vla.flow_shape), generator, device)
        eps = randn((batch, count, *self.vla.flow_shape), generator, device)
        tau = randint(TIMES, (batch, count), generator, device) / TIMES
        with torch.no_grad():
            for step in range(self.config.steps):
                now = torch.full((batch, 1), step / self.config.steps, device=device)
                x = x + velocity(x[:, None], now)[:, 0] / self.config.steps
            noisy = interpolate(eps, x[:, None].expand_as(eps), tau)
            log_prob = self._log_prob(noisy, tau, eps, velocity(noisy, tau), own)
            chain = torch.cat([x.flatten(1), eps.flatten(1), tau], 1)
            return Decision(self.vla.executed(x, observation), chain, log_prob), memory

    def _log_prob(self, noisy: Tensor, tau: Tensor, eps: Tensor, velocity: Tensor, own: Tensor) -> Tensor:
        """Return minus the flow-matching loss (M, 1), in terms of the noise: of the numbers that count alone."""
        predicted = noisy - tau[..., None, None] * velocity
        error = (predicted - eps).square()[:, :, : self.horizon] * own[:, None]
        loss = error.flatten(2).sum(-1) / own.sum((1, 2))[:, None]
        return -loss.mean(1, keepdim=True)

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, C): log_prob (T, B, 1), entropy (T, B) of 0 (it has none), no mean."""
        lead, count, shape = chain.shape[:-1], self.config.samples, self.vla.flow_shape
        size = math.prod(shape)
        action, eps, tau = chain.flatten(0, 1).split([size, count * size, count], 1)
        eps = eps.unflatten(1, (count, *shape))
        noisy = interpolate(eps, action.unflatten(1, (1, *shape)).expand_as(eps), tau)
        velocity = self.vla.velocities(observation, noisy.unflatten(0, lead), tau.unflatten(0, lead)).flatten(0, 1)
        own = self._counted(observation)
        log_prob = self._log_prob(noisy, tau, eps, velocity, own)
        return Score(log_prob.unflatten(0, lead), torch.zeros_like(log_prob[:, 0]).unflatten(0, lead))


def make_explorer(vla: Flowing, config: SamplerConfig) -> FlowExplorer:
    """Return what explores as the sampler says, around a VLA.  Raises InputError for settings of tokens."""
    refuse_without_effect(config, OF_TOKENS, "a flow")
    return MatchedFlow(vla, config) if config.noise == "fpo" else NoisyFlow(vla, config)
