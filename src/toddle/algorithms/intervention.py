"""Soft actor-critic with a person who takes over where the policy goes wrong (HIL-SERL, Luo et al. 2024).

arXiv 2410.21845.  What the person did is kept as it was executed, among what was done and a second time in a store of
its own, from which half of every batch comes.  At first the person acts alone: those are the demonstrations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from toddle.algorithms.soft_actor_critic import ONLINE
from toddle.algorithms.steering import Steering
from toddle.core.errors import problem
from toddle.data.replay import Decisions
from toddle.experience.guide import Person
from toddle.experience.rollout import Rollout
from toddle.policies.steered import SteeredPolicy

__all__ = ["PERSON", "Intervened"]

PERSON = "person"
"""The store of what the person did."""


class Intervened(Steering):
    """A residual over a frozen VLA that learns from its own decisions and from a person's corrections."""

    def __init__(self, policy: SteeredPolicy, collector: Any, *rest: Any, person: Person, **named: Any) -> None:
        """As `Steering`, with a replay of stores ONLINE and PERSON.  Raises InputError without a residual."""
        if policy.config.mode != "residual" or policy.config.scale <= 0.0:
            raise problem("steered.mode", "residual with a scale above 0, to say what a person did", policy.config.mode)
        super().__init__(policy, collector, *rest, **named)
        self.corrected, self.person = policy, person
        collector.guide = person
        self.helped = np.zeros(collector.env.num_envs, bool)  # whose last decision but one was the person's
        self.acted = np.zeros(collector.env.num_envs, bool)  # and the last

    def _take_turns(self) -> None:
        super()._take_turns()
        self.person.whole = len(self.replay.stores[ONLINE]) < max(1, self.learn_after)

    def _noted(self, rollout: Rollout) -> None:
        """Put what the person did, as a residual, in place of what the policy would have said."""
        assert rollout.state is not None and rollout.executed is not None
        self.helped, self.acted = self.acted, self.person.acted.copy()
        rows, numbers = torch.from_numpy(self.acted), rollout.chain.shape[-1]
        base = rollout.state[0, :, -numbers:]
        said = (rollout.executed[0].to(base.device) - base) / self.corrected.config.scale
        rollout.chain[0, rows] = said[rows]

    def _keep(self, made: Decisions) -> None:
        super()._keep(made)
        if self.helped.any():
            self.replay.stores[PERSON].add(made.at(torch.from_numpy(self.helped)))

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {"helped": self.helped.copy(), "acted": self.acted.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.helped, self.acted = (np.array(state[name], bool) for name in ("helped", "acted"))
