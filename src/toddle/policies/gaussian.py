"""GaussianPolicy: an MLP gives the mean of the action chunk, a learned vector its spread.  One link (L = 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import LogStd, Seed, Size, SizeOrNone
from toddle.core.seeding import randn, torch_generator
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.maths.distributions import gaussian_entropy, gaussian_log_prob, noise_log_prob
from toddle.models.mlp import make_mlp
from toddle.models.tanh_mlp import TanhMLP
from toddle.policies.features import BodyFeatures

__all__ = ["GaussianConfig", "GaussianPolicy"]


@config
class GaussianConfig:
    """An MLP policy with a state-independent standard deviation."""

    bodies: tuple[BodySpec, ...]
    """Embodiments, in the order of their ids; each has a network of its own."""
    horizon: Size = 1
    """H, actions in one decision; all are executed open loop."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers."""
    log_std: LogStd = 0.0
    """Logarithm of the standard deviation at the start (actions are in [-1, 1])."""
    goal_width: SizeOrNone = 0
    """Width of the pooled goal; 0 for environments without goals."""
    goal_parts: Size = 256
    """Controlled parts a goal item can name (ids below this)."""
    fixed_statistics: bool = False
    """Keep the normalisation that imitation set: a warm-started network knows no other."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of the hidden layers.  With relu the weights are drawn as torch's linear layers draw theirs."""
    squashed: bool = False
    """The mean is held to [-1, 1] by a tanh; the density stays that of a Gaussian (as IQL has it)."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if not self.bodies:
            raise problem("bodies", "at least one body", "none")


class _Body(nn.Module):
    """The network of one body: features -> mean (..., H A), and log_std (H A)."""

    def __init__(self, spec: BodySpec, config: GaussianConfig, generator: torch.Generator) -> None:
        super().__init__()
        width = config.horizon * spec.action
        self.features = BodyFeatures(spec.proprio, config.goal_width, config.goal_parts, "proprio", generator)
        self.mlp: nn.Module
        if config.activation == "tanh":
            self.mlp = TanhMLP(self.features.width, config.hidden, width, last_gain=0.01, generator=generator)
        else:
            with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                self.mlp = make_mlp([self.features.width, *config.hidden, width], config.activation)
        self.squashed = config.squashed
        self.log_std = nn.Parameter(torch.full((width,), config.log_std))

    def forward(self, observation: Observation) -> Tensor:
        mean: Tensor = self.mlp(self.features(observation))
        return mean.tanh() if self.squashed else mean


class GaussianPolicy(nn.Module):
    """A Gaussian over the chunk (H, A) as one vector, a ~ N(mean(o), exp(log_std)^2), with an MLP a body for the mean.

    The chain is the drawn chunk, unclipped, as a vector (B, H A); environments clip to [-1, 1].
    """

    kind: ClassVar[str] = "gaussian"
    sequential = False
    cameras: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: GaussianConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.horizon, self.bodies = config, config.horizon, config.bodies
        self.chunk_size = config.horizon
        self.nets = nn.ModuleList(
            _Body(spec, config, torch_generator(config.seed, "gaussian policy", spec.name)) for spec in config.bodies
        )
        self._by_id = [net for net in self.nets if isinstance(net, _Body)]  # a list is faster than a ModuleList

    @classmethod
    def from_config(cls, config: GaussianConfig) -> GaussianPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def with_bodies(self, bodies: tuple[BodySpec, ...]) -> GaussianPolicy:
        """Return the policy for these bodies, which it has to know: itself, or one with their networks alone."""
        if bodies == self.bodies:
            return self
        made = GaussianPolicy(replace(self.config, bodies=bodies))
        for net, body in zip(made.nets, bodies, strict=True):
            net.load_state_dict(self.nets[self.bodies.index(body)].state_dict())
        return made.train(self.training)

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    def _body(self, observation: Observation) -> _Body:
        return self._by_id[int(observation["body"].reshape(-1)[0]) if len(self._by_id) > 1 else 0]

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations of one body.  Raises nothing; `deterministic` takes the mean."""
        body = self._body(observation)
        mean = body(observation)
        noise = torch.zeros_like(mean) if deterministic else randn(mean.shape, generator, mean.device)
        draw = torch.addcmul(mean, noise, body.log_std.exp())
        log_prob = noise_log_prob(noise, body.log_std).unsqueeze(-1)
        return Decision(draw.view(len(draw), self.horizon, -1), draw, log_prob), None

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chunks (..., H A) at observations (..., O): log_prob (..., 1), entropy (...)."""
        body = self._body(observation)
        mean = body(observation)
        log_prob = gaussian_log_prob(chain, mean, body.log_std)
        entropy = gaussian_entropy(body.log_std).expand(log_prob.shape)
        return Score(log_prob.unsqueeze(-1), entropy, mean.unflatten(-1, (self.horizon, -1)))

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) of one body into its running statistics, unless these are fixed."""
        if not self.config.fixed_statistics:
            self.fit_normaliser(observation)

    # ---- imitation -----------------------------------------------------------------------------------------------
    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) of one body into its running statistics."""
        self._body(observation).features.update_normaliser(observation)

    def imitation_loss(self, observation: Observation, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return minus the log-density (M,) of demonstrated chunks (M, H, A), a number of the chunk."""
        return -self.score(observation, action.flatten(1)).log_prob[:, 0] / action[0].numel()

    def finish_imitation(self) -> None:
        """Nothing follows."""
