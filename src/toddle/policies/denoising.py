"""DenoisingPolicy: a chunk drawn through a chain of denoising links, by diffusion or by a flow (DPPO, ReinFlow, ...).

The observation is encoded once per decision; acting runs the network once per link, scoring runs it once for all links
of a minibatch.  Chain layouts, each one vector per decision (B, C):
    standard          x of the first scored link and after every scored link, (L + 1) H A numbers
    one random step   x before and after the stochastic step, 2 H A numbers, and the step's index
    fpo               the action H A, then N noises H A each, then N flow times
With a trunk that hides goals now and then, one number more: whether it was hidden.
Sources: DPPO (arXiv 2409.00588), ReinFlow (arXiv 2505.22094), pi_RL (Flow-SDE, Flow-Noise), FPO (arXiv 2507.21053).
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.seeding import rand, randint, randn, torch_generator
from toddle.core.types import Decision, Observation, Score
from toddle.maths.flow import interpolate, target_velocity
from toddle.models.denoising_trunk import TrunkDenoiser, TrunkDenoiserConfig
from toddle.models.expert import ActionExpert
from toddle.models.goal_encoder import GoalEncoder
from toddle.policies.denoising_network import DenoisingConfig, DenoisingNetwork, rows_of
from toddle.policies.features import BodyFeatures
from toddle.policies.links import DiffusionLinks, FlowConfig, make_links

__all__ = ["DenoisingConfig", "DenoisingPolicy"]

_LOG_2PI = math.log(2 * math.pi)


class DenoisingPolicy(nn.Module):
    """See the module.  `horizon` is the number of executed actions, as for every policy."""

    kind: ClassVar[str] = "denoising"
    sequential = False

    def __init__(self, config: DenoisingConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.horizon = config, config.executed
        generator = torch_generator(config.seed, "denoising policy", config.body.name)
        trunk = isinstance(config.network, TrunkDenoiserConfig)
        pooled = config.goal_width if not trunk or config.learned_std else 0  # a trunk reads goals itself
        self.features = BodyFeatures(config.body.proprio, pooled, config.goal_parts, "proprio", generator)
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(config.seed)
            self.tuned = DenoisingNetwork(config, self.features.width + config.condition)
        self.links = make_links(config.process)
        self.base: DenoisingNetwork | None = None
        if len(self.links.tuned) < self.links.steps:
            self.freeze_base()

    @classmethod
    def from_config(cls, config: DenoisingConfig) -> DenoisingPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def freeze_base(self) -> None:
        """Copy the network as it is now into the frozen base that draws the steps before the last K'."""
        if self.base is None:
            self.base = copy.deepcopy(self.tuned).requires_grad_(False)
        else:
            self.base.load_state_dict(self.tuned.state_dict())

    @property
    def trunk(self) -> TrunkDenoiser | None:
        """The network where it is the action expert of a VLA to be, else None."""
        return self.tuned.denoiser if isinstance(self.tuned.denoiser, TrunkDenoiser) else None

    @property
    def expert(self) -> ActionExpert:
        """The action expert in it.  Raises InputError where the network is no trunk."""
        if self.trunk is None:
            raise problem("policy.network", "a trunk, which is an action expert", self.config.network.kind)
        return self.trunk.expert

    @property
    def goals(self) -> GoalEncoder:
        """The goal encoder of the action expert.  Raises InputError where the network is no trunk."""
        assert self.expert is not None and self.trunk is not None
        return self.trunk.goals

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics, unless these are fixed."""
        if not self.config.fixed_statistics:
            self.fit_normaliser(observation)

    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.features.update_normaliser(observation)
        for network in (self.tuned, self.base):
            if network is not None and isinstance(network.denoiser, TrunkDenoiser):
                network.denoiser.expert.update_statistics(observation)

    def _features(self, observation: Observation) -> Tensor:
        features = self.features(observation)
        if self.config.condition:
            blank = features.new_zeros(*features.shape[:-1], self.config.condition)
            features = torch.cat([features, observation.get("condition", blank)], -1)
        return features.flatten(0, -2)

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
        std = self.links.log_prob_std(std).expand_as(mean)[..., : self.horizon, :]
        z = (y - mean)[..., : self.horizon, :] / std
        log_prob = -0.5 * (z * z + _LOG_2PI) - std.log()
        entropy = (0.5 * (1 + _LOG_2PI) + std.log()).flatten(1).mean(1)
        if self.config.reduce == "sum":
            return log_prob.flatten(2).sum(-1), entropy
        return log_prob.clamp(*self.config.log_prob_bounds).flatten(2).mean(-1), entropy

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
        single = None
        if self._one_random_step:
            single = randint(links.steps, (len(x), 1), generator, x.device)
        first, dropped = links.steps - len(links.tuned), None
        if self.config.goal_dropout:
            share = self.config.goal_dropout if self.training and not deterministic else 0.0
            dropped = rand((len(x),), generator, x.device) < share
        networks = [network for network in (self.tuned, self.base) if network is not None]
        shared = {network: network.encode(observation, features, dropped) for network in networks}
        states, means, stds = [x], [], []
        order = torch.arange(links.steps, device=x.device)
        for i in range(links.steps):
            network = self.tuned if i >= first or self.base is None else self.base
            index = order[i : i + 1]
            level = None if single is None else self._level * (single == i)[..., None, None]
            mean, std = self._link(
                network, features, shared[network], x[:, None], index, spread=level, deterministic=deterministic
            )
            drawn = links.draw(mean, std, i == links.steps - 1, generator, deterministic)
            if i >= first:
                means.append(mean)
                stds.append(std.expand_as(mean))
            x = drawn[:, 0]
            states.append(x)
        scored = torch.stack(states[first:], 1)
        log_prob = x.new_zeros(len(x), links.steps - first)
        if not deterministic and not self._fpo:  # of all links at once
            log_prob, _ = self._density(scored[:, 1:], torch.cat(means, 1), torch.cat(stds, 1))
        chain, log_prob = self._pack(scored, log_prob, single, shared[self.tuned], generator)
        if dropped is not None:
            chain = torch.cat([chain, dropped[:, None].to(chain.dtype)], 1)
        return Decision(x[:, : self.horizon], chain, log_prob), None

    @torch.no_grad()
    def integrate(self, observation: Observation, noise: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Return the whole chunks (B, H, A) that noise (B, H, A) becomes without further noise (DDIM with eta 0, ODE).

        `dropped` (B,) bool hides goals, where the network is a trunk.
        """
        features, links, x = self._features(observation), self.links, noise
        first = links.steps - len(links.tuned)
        for network, steps in ((self.base, range(first)), (self.tuned, range(first, links.steps))):
            if network is None:
                continue
            shared = network.encode(observation, features, dropped)
            for i in steps:
                x = links.ode(x, network.predict(shared, x[:, None], links.times[i : i + 1])[:, 0], i)
        return x

    def _shape(self, *lead: int) -> tuple[int, ...]:
        return (*lead, self.config.horizon, self.config.body.action)

    @property
    def _one_random_step(self) -> bool:
        return isinstance(self.config.process, FlowConfig) and self.config.process.one_random_step

    @property
    def _fpo(self) -> bool:
        return isinstance(self.config.process, FlowConfig) and self.config.process.noise == "fpo"

    @property
    def _level(self) -> float:
        return self.config.process.level if isinstance(self.config.process, FlowConfig) else 0.0

    def _pack(
        self, states: Tensor, log_prob: Tensor, single: Tensor | None, encoded: Any, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return the chain as the module lays it out, and its log-densities, of states (B, L + 1, H, A)."""
        if self._fpo:
            assert isinstance(self.config.process, FlowConfig)
            count, x = self.config.process.fpo_samples, states[:, -1]
            noise = randn(self._shape(len(x), count), generator, x.device)
            tau = randint(10, (len(x), count), generator, x.device) / 10
            chain = torch.cat([x.flatten(1), noise.flatten(1), tau], 1)
            return chain, self._fpo_log_prob(encoded, chain)[0]
        if single is None:
            return states.flatten(1), log_prob
        flat = states.flatten(2)
        pair = torch.stack([single, single + 1], 1).expand(-1, 2, flat.shape[-1])
        chain = torch.cat([flat.gather(1, pair).flatten(1), single.to(flat.dtype)], 1)
        return chain, log_prob.gather(1, single)

    # ---- scoring -------------------------------------------------------------------------------------------------
    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, C): log_prob (T, B, L), entropy (T, B), the mean over links and dimensions."""
        flat, lead = chain.flatten(0, -2), chain.shape[:-1]
        dropped = None
        if self.config.goal_dropout:
            flat, dropped = flat[:, :-1], flat[:, -1] > 0.5
        features = self._features(observation)
        shared = self.tuned.encode(rows_of(observation), features, dropped)
        if self._fpo:
            log_prob, entropy = self._fpo_log_prob(shared, flat)
        else:
            log_prob, entropy = self._log_prob(features, shared, flat)
        return Score(log_prob.unflatten(0, lead), entropy.unflatten(0, lead))

    def _log_prob(self, features: Tensor, shared: Any, chain: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-densities (M, L) and entropy (M,) of chains (M, C) at features (M, F)."""
        index = self.links.tuned
        if self._one_random_step:
            chain, index = chain[:, :-1], chain[:, -1:].long()
        states = chain.unflatten(1, self._shape(-1))
        mean, std = self._link(self.tuned, features, shared, states[:, :-1], index)
        return self._density(states[:, 1:], mean, std)

    def _fpo_log_prob(self, shared: Any, chain: Tensor) -> tuple[Tensor, Tensor]:
        """Return minus the flow-matching loss at the stored (tau, eps): its change is FPO's log ratio (eq. 8)."""
        assert isinstance(self.config.process, FlowConfig)
        count, size = self.config.process.fpo_samples, math.prod(self._shape())
        action, noise, tau = chain.split([size, count * size, count], 1)
        target, eps = action.unflatten(1, self._shape(1)), noise.unflatten(1, self._shape(count))
        x = interpolate(eps, target, tau)
        velocity = self.tuned.predict(shared, x, tau)
        predicted = x - tau[..., None, None] * velocity  # the noise this velocity implies
        loss = (predicted - eps).square()[..., : self.horizon, :].flatten(2).mean(-1)
        return -loss.mean(1, keepdim=True), torch.zeros_like(loss[:, 0])

    # ---- imitation -----------------------------------------------------------------------------------------------
    def imitation_loss(self, observation: Observation, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return each decision's denoising loss (M,) on chunks action (M, H, A): epsilon or velocity, mean square."""
        features = self._features(observation)
        action = action.reshape(-1, *action.shape[-2:])
        eps = randn(action.shape, generator, action.device)
        links = self.links
        if isinstance(links, DiffusionLinks):
            steps = links.config.train_steps
            k = randint(steps, (len(action),), generator, action.device)
            keep = links.alpha_bar[k][:, None, None]
            x, time, target = keep.sqrt() * action + (1 - keep).sqrt() * eps, k / steps, eps
        else:
            time = rand((len(action),), generator, action.device)
            x, target = interpolate(eps, action, time), target_velocity(eps, action)
        dropped = None
        if self.config.goal_dropout:
            share = self.config.goal_dropout
            dropped = rand((len(action),), generator, action.device) < share
        shared = self.tuned.encode(rows_of(observation), features, dropped)
        prediction = self.tuned.predict(shared, x[:, None], time[:, None])[:, 0]
        return (prediction - target).square().flatten(1).mean(1)
