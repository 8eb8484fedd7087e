"""DSRL-NA: noise is chosen by critics of noise that are taught by critics of actions (Wagenmaker et al. 2025).

arXiv 2506.15799, section 4.3.  Many noises come to one action, so what one of them earned says something of all: Q^A
learns of the action that was executed, by one-step targets, and Q^W(s, w) of Q^A(s, F(s, w)) at draws w ~ N(0, 1) of
the frozen flow F.

| paper | here |
|---|---|
| Q^A, target r + gamma Q^A(s', F(s', pi(s'))) | `values`; the target asks Q^W(s', pi(s')), which is taught to be that |
| Q^W, E over w ~ N(0, 1) of (Q^W(s, w) - Q^A(s, F(s, w)))^2 | `critics`, at K draws that are kept with each decision |
| pi climbs Q^W | `SoftActorCritic.update_actor` |

So the flow runs in no update.  The noise is within the actor's [-m, m], which the released code leaves out here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.soft_actor_critic import SACConfig
from toddle.algorithms.steering import Steering, SteeringConfig, silent_critics
from toddle.data.replay import Decisions, Replay
from toddle.experience.collect import Collector
from toddle.optim.flat_adam import FlatAdam
from toddle.policies.steered import SteeredPolicy

__all__ = ["NoiseAliased"]


class NoiseAliased(Steering):
    """Soft actor-critic of noise, whose critics learn from critics of actions."""

    def __init__(
        self,
        policy: SteeredPolicy,
        collector: Collector,
        replay: Replay,
        config: SACConfig,
        settings: SteeringConfig,
        *,
        seed: int,
    ) -> None:
        """`policy` is of mode noise and keeps draws (`policy.draws` at least 1), as the states of `replay` do."""
        seen = policy.base.summary_width
        super().__init__(policy, collector, replay, config, settings, seed=seed, sees=seen)
        self.noisy, self.seen = policy, seen
        self.values = silent_critics(seen, policy.chunk_numbers, config, seed=seed, of="action critics").to(self.device)
        self.values.scale = self.critics.scale
        self.optimisers["values"] = FlatAdam({"values": (self.values, config.learning_rate)}, max_norm=math.inf)
        self.learned["values"] = [p for p in self.values.parameters() if p.requires_grad]

    def _look(self, states: Tensor) -> None:
        super()._look(states[..., : self.seen])

    def update_critics(self, batch: Decisions) -> dict[str, Tensor]:
        """Move Q^A to y = r + discount (min of some slow Q^W at what the actor says next), then Q^W to Q^A at draws."""
        state, action, noise, chunks = self.noisy.parted(batch.observation)
        seen = replace(batch, observation=state, following=batch.following[:, : self.seen])
        target = self._target(seen)
        value = self.values(state, action)
        loss = self._descend("values", (value - target).square().mean())
        rows, noise = state.repeat_interleave(self.noisy.draws, 0), noise.flatten(0, 1)
        with torch.no_grad():
            wanted = self.values(rows, chunks.flatten(0, 1))
        distance = self._descend("critics", (self.critics(rows, noise) - wanted).square().mean())
        self._follow()
        return {"critic_loss": loss, "distilled_loss": distance, "value": value.mean(), "target": target.mean()}

    def update_actor(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the actor up Q^W, and alpha to where the entropy is as asked."""
        return super().update_actor(replace(batch, observation=batch.observation[:, : self.seen]))

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {"values": dict(self.values.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.values.load_state_dict(state["values"])
