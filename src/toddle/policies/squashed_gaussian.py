"""SquashedGaussianPolicy: the policy of SAC.  A small actor over states says the action, within [-1, 1] by a tanh."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import LogStd, Seed, Size
from toddle.core.seeding import randn, torch_generator
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.maths.distributions import gaussian_entropy, gaussian_log_prob, tanh_log_slope
from toddle.models.squashed_actor import SquashedActor
from toddle.policies.gaussian import GaussianPolicy

__all__ = ["SquashedGaussianConfig", "SquashedGaussianPolicy", "squashed_from"]

EDGE = 1.0 - 1e-6
"""Demonstrated numbers are held within this, as +-1 is tanh of no number."""


@config
class SquashedGaussianConfig:
    """A Gaussian of one body whose mean and deviation depend on the state, held to [-1, 1] by a tanh."""

    body: BodySpec
    """The embodiment."""
    horizon: Size = 1
    """H, actions in one decision; all are executed open loop."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers."""
    log_std: LogStd = 0.0
    """Logarithm of the standard deviation before the tanh, at the start."""
    seed: Seed = 0
    """Seed of the weights."""


class SquashedGaussianPolicy(nn.Module):
    """A chunk a = tanh(u) (H, A) as one vector, u ~ N(mean(o), std(o)^2), with the exact density of a.

    The chain is u, as a vector (B, H A), from which the density of a is known even where a rounds to 1.
    """

    kind: ClassVar[str] = "squashed_gaussian"
    sequential = False
    cameras: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: SquashedGaussianConfig) -> None:
        """Build the actor; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.horizon, self.bodies = config, config.horizon, (config.body,)
        self.chunk_size = config.horizon
        self.actor = SquashedActor(
            *self.state_sizes,
            hidden=config.hidden,
            log_std=config.log_std,
            generator=torch_generator(config.seed, "squashed gaussian policy"),
        )

    @classmethod
    def from_config(cls, config: SquashedGaussianConfig) -> SquashedGaussianPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    @property
    def state_sizes(self) -> tuple[int, int]:
        """O, numbers of a state, and H A, numbers of a chunk."""
        return self.config.body.proprio, self.config.horizon * self.config.body.action

    def state(self, observation: Observation) -> Tensor:
        """Return the body's numbers (..., O)."""
        return observation["proprio"]

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes tanh of the mean."""
        state = self.state(observation)
        shape = (len(state), self.state_sizes[1])
        noise = torch.zeros(shape, device=state.device) if deterministic else randn(shape, generator, state.device)
        u, log_prob = self._drawn(state, noise)
        return Decision(u.tanh().view(len(u), self.horizon, -1), u, log_prob.unsqueeze(-1)), None

    def _drawn(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return chains (B, H A) at states (B, O) and noise (B, H A), and their log-densities (B,)."""
        return self.actor.draw(state, noise)

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (..., H A) at observations (..., O): log_prob (..., 1), the Gaussian's entropy before the tanh
        (...) (after it there is no closed form)."""
        mean, log_std = self.actor(self.state(observation))
        log_prob = gaussian_log_prob(chain, mean, log_std) - tanh_log_slope(chain).sum(-1)
        middle = mean.tanh().unflatten(-1, (self.horizon, -1))
        return Score(log_prob.unsqueeze(-1), gaussian_entropy(log_std), middle)

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.actor.update_normaliser(self.state(observation))

    # ---- imitation -----------------------------------------------------------------------------------------------
    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.update_normaliser(observation)

    def imitation_loss(self, observation: Observation, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return minus the log-density (M,) of demonstrated chunks (M, H, A), a number of the chunk."""
        chain = action.flatten(1).clamp(-EDGE, EDGE).atanh()
        return -self.score(observation, chain).log_prob[:, 0] / chain.shape[1]

    def finish_imitation(self) -> None:
        """Nothing follows."""


@torch.no_grad()
def squashed_from(policy: GaussianPolicy) -> SquashedGaussianPolicy:
    """Return a squashed policy with the same most likely actions as a Gaussian whose mean is held by a tanh (what
    `toddle offline` trains), and its deviation before the tanh.

    Raises InputError for one of another shape: its mean is not that of any squashed Gaussian.
    """
    old = policy.config
    if not (old.squashed and old.activation == "relu" and len(old.bodies) == 1 and not old.goal_width):
        wanted = "a Gaussian policy with a squashed mean, as toddle offline trains, or a policy of SAC's"
        raise problem("init", wanted, "another Gaussian policy")
    made = SquashedGaussianPolicy(
        SquashedGaussianConfig(body=old.bodies[0], horizon=old.horizon, hidden=old.hidden, seed=old.seed)
    )
    actor, given = made.actor, dict(policy.nets[0].named_parameters())
    log_std = given.pop("log_std")
    for ours, theirs in zip(actor.mlp.parameters(), given.values(), strict=True):
        ours[: len(theirs)] = theirs
    actor.last.weight[actor.outputs :], actor.last.bias[actor.outputs :] = 0.0, log_std
    actor.scale.load_state_dict(policy.nets[0].get_submodule("features.scale").state_dict())
    return made
