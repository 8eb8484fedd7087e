"""The actors DDiffPG trains: the paper's diffusion policy, and the single-mode baseline; and the policy that explores.

DDiffPG asks an actor for actions, for better target actions and for a loss, and whether it is `multimodal`; it never
asks which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from toddle.core.protocols import Memory
from toddle.core.seeding import randint, randn
from toddle.core.types import BodySpec, Decision, Observation
from toddle.models.mlp import make_mlp
from toddle.models.mode_critic import ModeCritic
from toddle.models.normalizer import RunningNorm
from toddle.policies.denoising import DenoisingPolicy

__all__ = ["DeterministicActor", "DiffusionActor", "Exploring", "Lesson", "ModeActor", "TanhActor"]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What an actor learns from in one group of trajectories."""

    critic: ModeCritic
    observation: Tensor
    """(B, O), raw."""
    condition: Tensor
    """(B, E), the group's embedding, or zeros where it is hidden."""
    target: Tensor
    """(B, A), the target actions."""


class ModeActor(Protocol):
    """An actor, raw observations (B, O) in and actions (B, A) in [-1, 1] out."""

    multimodal: ClassVar[bool]
    """Whether trajectories are grouped, each group with a critic of its own beside the exploration critic, which then
    learns from the novelty bonus alone; if not, the exploration critic is the only one and learns from both."""

    @property
    def policy(self) -> nn.Module:
        """The network that learns."""

    def act(self, observation: Tensor, condition: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return actions (B, A) without gradients."""

    def update_normaliser(self, observation: Tensor) -> None:
        """Take observations into the actor's own statistics."""

    def improve(self, critic: ModeCritic, observation: Tensor, target: Tensor) -> Tensor:
        """Return target actions (B, A) that the critic values more."""

    def loss(self, lessons: Sequence[Lesson], generator: torch.Generator) -> Tensor:
        """Return the loss, a number with gradients."""


class DiffusionActor:
    """A diffusion policy that copies target actions; these climb the critic (section 4.3, eq. 6)."""

    multimodal: ClassVar[bool] = True

    def __init__(self, policy: DenoisingPolicy, norm: RunningNorm, *, steps: int, learning_rate: float) -> None:
        """norm: of the critics' observations; steps, learning_rate: Adam's, on the target actions."""
        self.policy, self.norm, self.steps, self.learning_rate = policy, norm, steps, learning_rate

    def act(self, observation: Tensor, condition: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw actions (B, A)."""
        seen: Observation = {"proprio": observation, "condition": condition}
        return self.policy.act(seen, generator=generator)[0].action[:, 0]

    def update_normaliser(self, observation: Tensor) -> None:
        """Take observations into the policy's statistics."""
        self.policy.update_normaliser({"proprio": observation})

    def improve(self, critic: ModeCritic, observation: Tensor, target: Tensor) -> Tensor:
        """Return target actions after a few Adam steps up the critic."""
        normed, action = self.norm(observation), target.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([action], lr=self.learning_rate)
        for _ in range(self.steps):
            (gradient,) = torch.autograd.grad(-critic.value(normed, action).sum(), action)
            action.grad = gradient
            optimiser.step()
            with torch.no_grad():
                action.clamp_(-1 + 1e-5, 1 - 1e-5)
        return action.detach()

    def loss(self, lessons: Sequence[Lesson], generator: torch.Generator) -> Tensor:
        """Return the denoising loss of all groups' target actions (eq. 6)."""
        observation, condition, target = (
            torch.cat(parts)
            for parts in zip(*((one.observation, one.condition, one.target) for one in lessons), strict=True)
        )
        seen: Observation = {"proprio": observation, "condition": condition}
        return self.policy.imitation_loss(seen, target[:, None], generator).mean()


class TanhActor(nn.Module):
    """a = tanh(net(s)), the network of TD3's actor (arXiv 1802.09477)."""

    def __init__(self, observation: int, action: int, seed: int) -> None:
        """Build the network; the weights follow from `seed`."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(seed)
            self.net = make_mlp([observation, 256, 256, action], "elu")

    def forward(self, observation: Tensor) -> Tensor:
        """Map (B, O) to (B, A) in [-1, 1]."""
        return torch.tanh(self.net(observation))


class DeterministicActor:
    """The single-mode baseline: TD3's actor, led by the gradient of its one critic."""

    multimodal: ClassVar[bool] = False

    def __init__(self, policy: TanhActor, norm: RunningNorm) -> None:
        """norm: of observations, the critic's too."""
        self.policy, self.norm = policy, norm

    @torch.no_grad()
    def act(self, observation: Tensor, condition: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the one action (B, A) of each observation."""
        return self.policy.forward(self.norm(observation))

    def update_normaliser(self, observation: Tensor) -> None:
        """It has the critic's."""

    def improve(self, critic: ModeCritic, observation: Tensor, target: Tensor) -> Tensor:
        """Return the target actions: the critic leads the actor without them."""
        return target

    def loss(self, lessons: Sequence[Lesson], generator: torch.Generator) -> Tensor:
        """Return minus the value of its actions."""
        (lesson,) = lessons
        observation = self.norm(lesson.observation)
        return -lesson.critic.value(observation, self.policy(observation)).mean()


class Exploring(nn.Module):
    """How DDiffPG acts while it learns: every episode in a mode drawn at its start, under correlated noise.

    A policy (`core.protocols.Acting`) of one action a decision.  In the first iterations the noise alone acts.
    """

    kind: ClassVar[str] = "ddiffpg exploring"
    config: Any = None
    horizon: ClassVar[int] = 1
    sequential: ClassVar[bool] = False
    cameras: tuple[str, ...] = ()

    spread: Tensor
    drift: Tensor
    behaviour: Tensor

    def __init__(
        self, actor: ModeActor, body: BodySpec, spread: Tensor, embeddings: Tensor, *, correlation: float
    ) -> None:
        """spread (B,): of the noise in each world; correlation: of the noise from one control step to the next;
        embeddings (M, E): of the modes that an episode may be of."""
        super().__init__()
        self.actor, self.network, self.bodies, self.correlation = actor, actor.policy, (body,), correlation
        self.alone, self.embeddings, worlds = True, embeddings, len(spread)  # alone: the noise acts
        self.register_buffer("spread", spread[:, None])
        self.register_buffer("drift", torch.zeros(worlds, body.action))  # of unit variance at every step
        self.register_buffer("behaviour", torch.zeros(worlds, embeddings.shape[1]))

    def initial_memory(self, batch: int) -> Memory:
        """Return None: noise and modes outlive a rollout, so they are the policy's own."""
        return None

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations."""
        first, keep = observation["first"][:, None], self.correlation
        fresh = randn(self.drift.shape, generator, self.drift.device)
        self.drift = torch.where(first, fresh, keep * self.drift + (1 - keep**2) ** 0.5 * fresh)
        chosen = randint(len(self.embeddings), first.shape[:1], generator, self.drift.device)
        self.behaviour = torch.where(first, self.embeddings[chosen], self.behaviour)
        action = self.drift
        if not self.alone:
            action = self.actor.act(observation["proprio"], self.behaviour, generator) + self.spread * self.drift
        action = action.clamp(-1.0, 1.0)
        return Decision(action[:, None], action, action.new_zeros(len(action), 0)), None

    def under_way(self) -> dict[str, Tensor]:
        """Return what the episodes under way depend on, beside the actor."""
        return {"drift": self.drift, "behaviour": self.behaviour}

    def go_on(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        self.drift.copy_(state["drift"])
        self.behaviour.copy_(state["behaviour"])
