"""ConditionedPolicy: a Gaussian over states and over how good what follows is to be; imitation learns it, it asks for
the good.

- RECAP (pi*0.6, Physical Intelligence 2025, arXiv 2511.14759): it is told whether an action's advantage is among the
  best, and asks for `positive`.
- ReinboT (Zhang et al. 2025, arXiv 2505.07395): it is told the return, as a share of the range in the data, and asks
  for the high expectile of it that it predicts itself, `return`.

A condition is a pair (known, value); (0, 0) leaves it open.  Where it was open now and then when it was taught, what it
asks for may be exaggerated: guidance w moves the mean to m(open) + w (m(asked) - m(open)), which for Gaussians of one
deviation is exactly the density p(open) (p(asked) / p(open))^w (Frans et al. 2025, CFGRL, arXiv 2505.23458).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.numbers import LogStd, NonNegative, Seed, Size
from toddle.core.seeding import randn, torch_generator
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.maths.distributions import gaussian_entropy, gaussian_log_prob, noise_log_prob
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["Asked", "ConditionedConfig", "ConditionedPolicy"]

Asked = Literal["positive", "negative", "return", "nothing"]
FIXED = {"positive": (1.0, 1.0), "negative": (1.0, -1.0), "nothing": (0.0, 0.0)}


@config
class ConditionedConfig:
    """A Gaussian of one body and single actions, its mean held to [-1, 1] by a tanh, with a condition as input."""

    body: BodySpec
    """The embodiment."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers, of the return's predictor too."""
    log_std: LogStd = 0.0
    """Logarithm of the standard deviation at the start; one for all states."""
    asks: Asked = "positive"
    """What it asks for when it acts."""
    guidance: NonNegative = 1.0
    """w: 0 as if nothing were asked, 1 what was asked, above 1 more of it."""
    seed: Seed = 0
    """Seed of the weights."""


class ConditionedPolicy(nn.Module):
    """a ~ N(mean(o, condition), exp(log_std)^2) (A).  The chain is the drawn action, unclipped (B, A).

    `observation["condition"]` (..., 2) says what to do with; without it the policy asks by itself.
    """

    kind: ClassVar[str] = "conditioned"
    sequential = False
    cameras: ClassVar[tuple[str, ...]] = ()
    horizon = 1

    def __init__(self, config: ConditionedConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.bodies = config, (config.body,)
        generator, inputs = torch_generator(config.seed, "conditioned policy"), config.body.proprio
        self.scale = RunningNorm((inputs,))
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.mlp = make_mlp([inputs + 2, *config.hidden, config.body.action], "relu")
            self.best = make_mlp([inputs, *config.hidden, 1], "relu")
        self.log_std = nn.Parameter(torch.full((config.body.action,), config.log_std))

    @classmethod
    def from_config(cls, config: ConditionedConfig) -> ConditionedPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    def best_return(self, state: Tensor) -> Tensor:
        """Return the return (...) that is predicted at states (..., O), as a share of the range in the data."""
        predicted: Tensor = self.best(self.scale(state))
        return predicted[..., 0]

    def asked(self, state: Tensor) -> Tensor:
        """Return the condition (..., 2) that the policy asks for at states (..., O)."""
        if self.config.asks == "return":
            best = self.best_return(state).detach()
            return torch.stack([torch.ones_like(best), best], -1)
        return state.new_tensor(FIXED[self.config.asks]).expand(*state.shape[:-1], 2)

    def mean(self, state: Tensor, condition: Tensor) -> Tensor:
        """Return the mean action (..., A) at states (..., O) under conditions (..., 2)."""
        found: Tensor = self.mlp(torch.cat([self.scale(state), condition], -1))
        return found.tanh()

    def _mean(self, observation: Observation) -> Tensor:
        state = observation["proprio"]
        if "condition" in observation:
            return self.mean(state, observation["condition"])
        wanted, weight = self.mean(state, self.asked(state)), self.config.guidance
        if weight == 1.0:
            return wanted
        free = self.mean(state, state.new_zeros(*state.shape[:-1], 2))
        return (free + weight * (wanted - free)).clamp(-1.0, 1.0)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes the mean."""
        mean = self._mean(observation)
        noise = torch.zeros_like(mean) if deterministic else randn(mean.shape, generator, mean.device)
        draw = mean + noise * self.log_std.exp()
        return Decision(draw[:, None], draw, noise_log_prob(noise, self.log_std).unsqueeze(-1)), None

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score actions (..., A) at observations (..., O): log_prob (..., 1), entropy (...)."""
        mean = self._mean(observation)
        log_prob = gaussian_log_prob(chain, mean, self.log_std)
        entropy = gaussian_entropy(self.log_std).expand(log_prob.shape)
        return Score(log_prob.unsqueeze(-1), entropy, mean.unsqueeze(-2))

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.scale.update(observation["proprio"])

    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.update_normaliser(observation)
