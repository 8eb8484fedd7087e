"""Two actors over a frozen VLA: one acts, the other refines what it does by what a person says (Dual-Actor FT).

After arXiv 2509.13774.  The first learns by Q-learning from its own decisions and a person's, as in HIL-SERL.  The
second adds to the first one's chunk what it has seen persons add when the same was to be said:

    loss = |tanh(f(state, words)) - clip((a_person - a_first) / scale, -1, 1)|^2

from every decision that was the person's.  It begins by adding nothing, and without words it adds nothing ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from toddle.algorithms.intervention import Intervened
from toddle.core.config import config
from toddle.core.numbers import Count, Positive, Size
from toddle.core.seeding import randint, torch_generator
from toddle.data.replay import Decisions
from toddle.envs.base import Array
from toddle.experience.rollout import Rollout
from toddle.experience.talking import Talking
from toddle.maths.corrections import one_hot
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm
from toddle.optim.adam_state import adam_state, load_adam_state
from toddle.policies.steered import SteeredPolicy

__all__ = ["DualActor", "RefineConfig"]


@config
class RefineConfig:
    """The second actor, and how it learns."""

    hidden: Size = 128
    """Hidden units of its two layers."""
    learning_rate: Positive = 1e-3
    """Adam's rate."""
    batch: Size = 64
    """Corrections in an update; there is one with every update of the first actor."""
    kept: Count = 20_000
    """Corrections that are kept; then the oldest go."""


class DualActor(Intervened):
    """Soft actor-critic with a person who speaks first, and a second actor who hears it."""

    person: Talking

    def __init__(
        self, policy: SteeredPolicy, collector: Any, *rest: Any, refine: RefineConfig, seed: int, **named: Any
    ) -> None:
        """As `Intervened`, with a person that talks."""
        super().__init__(policy, collector, *rest, seed=seed, **named)
        (states, numbers), self.second = policy.state_sizes, refine
        motions = len(np.arange(policy.bodies[0].action)[self.person.motions])
        self.motions, self.draws = motions, torch_generator(seed, "second actor")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.draws)))
            self.refiner = make_mlp([states + 2 * motions, refine.hidden, refine.hidden, numbers])
        for weights in self.refiner[-1].parameters():
            torch.nn.init.zeros_(weights)
        self.scaling = RunningNorm((states,))
        self.refiner.to(self.device)
        self.scaling.to(self.device)
        self.stepped = torch.optim.Adam(self.refiner.parameters(), lr=refine.learning_rate)
        self.told = torch.zeros(0, states + 2 * motions + numbers)  # states, words, what was added
        self.person.refine = self._refined

    def _added(self, states: Tensor, words: Tensor) -> Tensor:
        """Return what is added (N, C), in [-1, 1], at states (N, O) and words (N, 2 D)."""
        found: Tensor = self.refiner(torch.cat([self.scaling(states), words], -1)).tanh()
        return found

    @torch.no_grad()
    def _refined(self, said: Array) -> Array:
        assert self.corrected.seen is not None
        words = torch.from_numpy(one_hot(said, self.motions)).to(self.device)
        added = self._added(self.corrected.seen, words) * words.any(-1, keepdim=True)
        shaped = self.corrected.config.scale * added.view(len(said), self.corrected.horizon, -1)
        return shaped.cpu().numpy()

    def _noted(self, rollout: Rollout) -> None:
        """Keep what the person did as a correction, and what words refined as what was executed."""
        super()._noted(rollout)
        assert rollout.state is not None and rollout.executed is not None
        state, person = rollout.state[0], self.person
        if (rows := torch.from_numpy(person.talked)).any():
            base = state[:, -rollout.chain.shape[-1] :]
            said = (rollout.executed[0].to(base.device) - base) / self.corrected.config.scale
            rollout.chain[0, rows] = said[rows]
        if (rows := torch.from_numpy(person.acted & (person.said > 0))).any():
            apart = torch.from_numpy(np.ascontiguousarray(person.wanted - person.own)).flatten(1)
            apart = (apart / self.corrected.config.scale).clamp(-1.0, 1.0).float()
            words = torch.from_numpy(one_hot(person.said, self.motions))
            self.scaling.update(state[rows])
            new = torch.cat([state.cpu(), words, apart], 1)[rows]
            self.told = torch.cat([self.told, new])[-self.second.kept :]

    def update_actor(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the first actor, and then the second towards corrections that were drawn."""
        return super().update_actor(batch) | self._listen()

    def _listen(self) -> dict[str, Tensor]:
        if not len(self.told):
            return {}
        rows = randint(len(self.told), (self.second.batch,), self.draws, torch.device("cpu"))
        states, numbers = self.corrected.state_sizes
        state, words, wanted = self.told[rows].to(self.device).split([states, 2 * self.motions, numbers], -1)
        loss = (self._added(state, words) - wanted).square().mean()
        self.stepped.zero_grad(set_to_none=True)
        loss.backward()
        self.stepped.step()
        return {"refine_loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        second: dict[str, Any] = {"refiner": dict(self.refiner.state_dict())}
        second |= {"scaling": dict(self.scaling.state_dict())}
        second |= {"stepped": adam_state(self.stepped), "told": self.told.clone(), "draws": self.draws.get_state()}
        return super().state_dict() | {"second": second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        second = state["second"]
        self.refiner.load_state_dict(second["refiner"])
        self.scaling.load_state_dict(second["scaling"])
        load_adam_state(self.stepped, second["stepped"])
        self.told = second["told"].clone()
        self.draws.set_state(second["draws"])
