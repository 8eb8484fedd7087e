"""ChunkPolicy: what diffusion and flow policies share, from the observation to the network's prediction."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.seeding import rand, randint, randn, torch_generator
from toddle.core.types import Observation
from toddle.maths.flow import interpolate, target_velocity
from toddle.models.denoising_trunk import TrunkDenoiser, TrunkDenoiserConfig
from toddle.models.expert import ActionExpert
from toddle.models.goal_encoder import GoalEncoder
from toddle.policies.denoising_network import ChunkConfig, DenoisingNetwork, rows_of
from toddle.policies.features import BodyFeatures
from toddle.policies.links import DiffusionConfig, DiffusionLinks, FlowConfig, make_links

__all__ = ["ChunkPolicy"]


class ChunkPolicy(nn.Module):
    """An abstract policy that turns noise into a chunk of actions; subclasses say how it is drawn and scored.

    `tuned` is the network that learns; `base`, where there is one, a frozen copy that draws the first steps; `process`
    names how a step is drawn: diffusion, reinflow, flow_sde or flow_noise.
    """

    sequential = False
    cameras: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ChunkConfig, process: DiffusionConfig | FlowConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.horizon, self.bodies, self.process = config.executed, (config.body,), process.name
        self._settings = config
        generator = torch_generator(config.seed, "denoising policy", config.body.name)
        trunk = isinstance(config.network, TrunkDenoiserConfig)
        pooled = config.goal_width if not trunk or process.learned_std else 0  # a trunk reads goals itself
        self.features = BodyFeatures(config.body.proprio, pooled, config.goal_parts, "proprio", generator)
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(config.seed)
            self.tuned = DenoisingNetwork(config, process, self.features.width + config.condition)
        self.links = make_links(process)
        self.base: DenoisingNetwork | None = None

    @property
    def chunk_size(self) -> int:
        """H, actions of a chunk."""
        return self._settings.horizon

    @property
    def trunk(self) -> TrunkDenoiser | None:
        """The network where it is the action expert of a VLA to be, else None."""
        return self.tuned.denoiser if isinstance(self.tuned.denoiser, TrunkDenoiser) else None

    @property
    def expert(self) -> ActionExpert:
        """The action expert in it.  Raises InputError where the network is no trunk."""
        if self.trunk is None:
            raise problem("policy.network", "a trunk, which is an action expert", self._settings.network.kind)
        return self.trunk.expert

    @property
    def goals(self) -> GoalEncoder:
        """The goal encoder of the action expert.  Raises InputError where the network is no trunk."""
        assert self.expert is not None and self.trunk is not None
        return self.trunk.goals

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics, unless these are fixed."""
        if not self._settings.fixed_statistics:
            self.fit_normaliser(observation)

    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.features.update_normaliser(observation)
        for network in (self.tuned, self.base):
            if network is not None and isinstance(network.denoiser, TrunkDenoiser):
                network.denoiser.expert.update_statistics(observation)

    def _features(self, observation: Observation) -> Tensor:
        """Return features (M, F) of observations (..., O)."""
        features = self.features(observation)
        if self._settings.condition:
            blank = features.new_zeros(*features.shape[:-1], self._settings.condition)
            features = torch.cat([features, observation.get("condition", blank)], -1)
        return features.flatten(0, -2)

    def _shape(self, *lead: int) -> tuple[int, ...]:
        return (*lead, self._settings.horizon, self._settings.body.action)

    def _dropped(self, batch: int, deterministic: bool, generator: torch.Generator | None) -> Tensor | None:
        """Return in which decisions (B,) the goal is hidden, in evaluation in none; None where it never is."""
        if not self._settings.goal_dropout:
            return None
        share = self._settings.goal_dropout if self.training and not deterministic else 0.0
        device = self.features.scale.mean.device
        return rand((batch,), generator, device) < share

    def _split(self, chain: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return chains (M, C) without the mark of a hidden goal, and the marks (M,) where there are any."""
        if not self._settings.goal_dropout:
            return chain, None
        return chain[:, :-1], chain[:, -1] > 0.5

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
        if share := self._settings.goal_dropout:
            dropped = rand((len(action),), generator, action.device) < share
        shared = self.tuned.encode(rows_of(observation), features, dropped)
        prediction: Tensor = self.tuned.predict(shared, x[:, None], time[:, None])[:, 0]
        return (prediction - target).square().flatten(1).mean(1)

    def finish_imitation(self) -> None:
        """Nothing follows."""
