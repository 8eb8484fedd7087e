"""ConsistencyPolicy: one pass of a network from noise to the action, learned by undoing any amount of noise at once.

Consistency policies for RL (Ding and Jin 2023, arXiv 2309.16984) as ConRFT has them (Chen et al. 2025, arXiv
2502.05450): f(a + k z, k, o) is held to the demonstrated action a at every noise level k; acting is f(80 z, 80, o).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.numbers import Seed, Size
from toddle.core.seeding import randn, torch_generator
from toddle.core.types import BodySpec, Decision, Observation
from toddle.maths.consistency import LEAST, MOST, bounds, level_weight, noise_levels
from toddle.models.denoisers import MlpDenoiser, MlpDenoiserConfig
from toddle.models.normalizer import RunningNorm

__all__ = ["ConsistencyConfig", "ConsistencyPolicy"]


@config
class ConsistencyConfig:
    """A consistency policy of one body and single actions."""

    body: BodySpec
    """The embodiment."""
    network: MlpDenoiserConfig = MlpDenoiserConfig()
    """The network."""
    levels: Size = 40
    """Noise levels it learns at, from 80 down to 0.02."""
    seed: Seed = 0
    """Seed of the weights."""


class ConsistencyPolicy(nn.Module):
    """a = f(80 z, 80, o), z ~ N(0, 1).  The chain is the action (B, A); densities are not known, and given as 0."""

    kind: ClassVar[str] = "consistency"
    sequential = False
    cameras: ClassVar[tuple[str, ...]] = ()
    horizon = chunk_size = 1
    levels: Tensor

    def __init__(self, config: ConsistencyConfig) -> None:
        """Build the network; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.bodies = config, (config.body,)
        self.scale = RunningNorm((config.body.proprio,))
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=torch_generator(config.seed, "consistency"))))
            self.net = MlpDenoiser(config.network, config.body.proprio, 1, config.body.action)
        self.register_buffer("levels", noise_levels(config.levels), persistent=False)

    @classmethod
    def from_config(cls, config: ConsistencyConfig) -> ConsistencyPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    def clean(self, state: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """Return f, the action (B, A), of actions with noise (B, A) of the levels (B,) at states (B, O)."""
        skip, out, into = (part[:, None] for part in bounds(level))
        time = (level / LEAST).log() / math.log(MOST / LEAST)
        shared = self.net.encode(self.scale(state))
        found = self.net(shared, (into * noisy)[:, None, None], time[:, None])[:, 0, 0]
        return skip * noisy + out * found

    def drawn(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return actions (B, A) within [-1, 1], with gradients, at states (B, O) from standard normal noise (B, A)."""
        return self.clean(state, MOST * noise, torch.full_like(noise[:, 0], MOST)).clamp(-1.0, 1.0)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` begins at no noise."""
        state = observation["proprio"]
        shape = (len(state), self.config.body.action)
        noise = torch.zeros(shape, device=state.device) if deterministic else randn(shape, generator, state.device)
        action = self.drawn(state, noise)
        return Decision(action[:, None], action, torch.zeros_like(action[:, :1])), None

    # ---- imitation -----------------------------------------------------------------------------------------------
    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.scale.update(observation["proprio"])

    def imitation_loss(self, observation: Observation, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return the weighted squared error (M,) of demonstrated chunks (M, 1, A) at drawn levels above the least."""
        wanted = action[:, 0]
        index = torch.randint(len(self.levels) - 1, (len(wanted),), generator=generator)
        level = self.levels[index]
        noisy = wanted + level[:, None] * randn(wanted.shape, generator, wanted.device)
        errors = (self.clean(observation["proprio"], noisy, level) - wanted).square().mean(-1)
        return level_weight(level) * errors

    def finish_imitation(self) -> None:
        """Nothing follows."""
