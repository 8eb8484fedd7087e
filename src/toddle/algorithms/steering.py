"""Soft actor-critic for a small actor that steers a frozen VLA (`policies.steered`): DSRL and PLD are settings of it.

What differs from plain soft actor-critic is what is kept and who acts.  A state is what the actor saw when it decided,
with the VLA's own action of that decision where it corrects it, so the target's next action is that of the VLA's draw
that was really made there, and the VLA is never asked twice.  At first the VLA acts alone, then the actor's share
rises.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig, SoftActorCritic
from toddle.core.config import config
from toddle.core.numbers import Finite, Positive, Whole
from toddle.core.protocols import Steered
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation
from toddle.data.replay import Decisions, Replay
from toddle.experience.collect import Collector
from toddle.experience.rollout import Rollout
from toddle.models.q_ensemble import QEnsemble

__all__ = ["Steering", "SteeringConfig", "silent_critics"]


@config
class SteeringConfig:
    """How the actor takes over from the VLA, and what it is paid."""

    ramp: Whole = 0
    """Control steps, of all worlds, over which the share of decisions in which the actor has its say rises to 1 (from
    the start; before the first update it is 0)."""
    hybrid: Whole = 0
    """In each episode the VLA alone makes the first decisions, a number drawn from 0 to this."""
    bonus: Finite = 0.0
    """Added to the reward of each control step."""
    reward_scale: Positive = 1.0
    """Rewards are multiplied by this."""


class Shared(Steered, Protocol):
    """A policy whose actor has its say in a share of decisions, and never in the worlds `alone` (B,) bool."""

    share: Tensor
    alone: Tensor | None


class Steering(SoftActorCritic):
    """Soft actor-critic of a steered policy's actor.  The critics may see the simulator's state beside the actor's."""

    def __init__(
        self,
        policy: Shared,
        collector: Collector,
        replay: Replay,
        config: SACConfig,
        settings: SteeringConfig,
        *,
        seed: int,
        privileged: int = 0,
        sees: int | None = None,
    ) -> None:
        """`privileged`: K numbers of the simulator's state that the critics see after the actor's O; the replay's
        states are of O + K.  sees: numbers of a state that the critics see; None: all."""
        states, numbers = policy.state_sizes
        critics = silent_critics(states + privileged if sees is None else sees, numbers, config, seed=seed)
        super().__init__(policy, collector, replay, config, seed=seed, critics=critics)
        self.steered, self.settings, self.privileged = policy, settings, privileged
        self.turns = torch_generator(seed, "who acts")
        self.pending: tuple[Decisions, Tensor] | None = None  # the last decisions (B), and whose episode ended there
        self.wait = torch.zeros(collector.env.num_envs, dtype=torch.int64)  # decisions that are still the VLA's

    def learn_at_once(self) -> float:
        """Learn from the first round on, with what two decisions have left; see `SoftActorCritic`."""
        for _ in range(2):
            self._gather()
        return super().learn_at_once()

    # ---- who acts ------------------------------------------------------------------------------------------------
    def _take_turns(self) -> None:
        """Set the actor's share, and the worlds in which the VLA makes the next decision alone."""
        begun = len(self.replay.stores[ONLINE]) >= self.learn_after
        ramp = self.settings.ramp
        self.steered.share.fill_(0.0 if not begun else min(1.0, self.total_steps / ramp) if ramp else 1.0)
        if not self.settings.hybrid:
            return
        first = torch.from_numpy(self.collector.actor.first)
        drawn = torch.randint(self.settings.hybrid + 1, first.shape, generator=self.turns)
        self.wait = torch.where(first, drawn, (self.wait - 1).clamp(min=0))
        self.steered.alone = (self.wait > 0).to(self.device)

    # ---- what is kept --------------------------------------------------------------------------------------------
    def _known(self, state: Tensor, observation: Observation) -> Tensor:
        """Return what is kept of a state (..., O): (..., O + K)."""
        return torch.cat([state, observation["critic"]], -1) if self.privileged else state

    @torch.no_grad()
    def _gather(self) -> dict[str, float]:
        """Make one decision in every world; those before are complete now that what the VLA does next is known."""
        self._take_turns()
        rollout, metrics = self.collector.collect(self.policy, None)
        self.steered.alone = None  # it is of this collector's worlds alone
        assert rollout.state is not None and rollout.length == 1
        state = self._known(rollout.state, rollout.observation)[0]
        self._noted(rollout)
        if self.pending is not None:
            made, ended = self.pending
            following = torch.where(ended[:, None], made.following, state.cpu())
            made = Decisions(made.observation, made.action, following, made.reward, made.discount)
            self._keep(made)
            self._look(made.observation.to(self.device))
        following = torch.zeros_like(state)
        if rollout.finals is not None:
            cut, _ = self.policy.act(rollout.finals, generator=self.noise)
            assert cut.state is not None
            following[rollout.final_at[:, 1]] = self._known(cut.state, rollout.finals)
        terminated, truncated = rollout.terminated[0], rollout.truncated[0]
        reward = self._paid(rollout.reward[0], rollout.discount[0])
        parts = (state, rollout.chain[0], following, reward, rollout.discount[0] * ~terminated)
        self.pending = Decisions(*(part.cpu().clone() for part in parts)), (terminated | truncated).cpu().clone()
        return metrics | {"steer/share": float(self.steered.share)}

    def _keep(self, made: Decisions) -> None:
        """Take the last decisions (B) in, which are complete."""
        self.replay.stores[ONLINE].add(made)

    def _noted(self, rollout: Rollout) -> None:
        """Hear of a rollout, for what is kept besides."""

    def _paid(self, reward: Tensor, discount: Tensor) -> Tensor:
        """Return the reward (B,) of chunks of gamma^steps = `discount`, with the bonus of each of their steps."""
        gamma = self.config.discount
        return self.settings.reward_scale * (reward + self.settings.bonus * (1.0 - discount) / (1.0 - gamma))

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        pending = None
        if self.pending is not None:
            pending = {"made": self.pending[0].parts(), "ended": self.pending[1]}
        own = {"pending": pending, "wait": self.wait.clone(), "turns": self.turns.get_state()}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        found = state["pending"]
        self.pending = None if found is None else (Decisions(**found["made"]), found["ended"])
        self.wait = state["wait"].clone()
        self.turns.set_state(state["turns"])


def silent_critics(inputs: int, numbers: int, config: SACConfig, *, seed: int, of: str = "critics") -> QEnsemble:
    """Return fresh critics that say 0; their weights follow from `seed` and from what they are critics `of`.

    What values begin with wears off by gamma for each time constant of the slow copies, which a short run never sees
    the end of; and where going on is valued above success, success is avoided.
    """
    critics = QEnsemble(
        inputs,
        numbers,
        hidden=config.critic_hidden,
        count=config.critics,
        seed=int(torch.randint(2**62, (), generator=torch_generator(seed, of))),
        layer_norm=config.layer_norm,
    )
    with torch.no_grad():
        critics.weights[-1].zero_()
        critics.biases[-1].zero_()
    return critics
