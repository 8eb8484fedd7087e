"""Two actors over a frozen VLA: one acts, the other refines what it does by what a person says (Dual-Actor FT).

After arXiv 2509.13774.  The first learns by Q-learning from its own decisions and a person's, as in HIL-SERL.  The
second adds to the first one's chunk what it has seen persons add when the same was to be said, and what the critics
value, which learn from what words refined as from everything else:

    loss = imitation |tanh(f(state, words)) - clip((a_person - a_first) / scale, -1, 1)|^2     the person's decisions
         - values mean_i Q_i(state, clip(a_first / scale + tanh(f(state, words)), -1, 1))      these and the refined

with a_first as a residual.  It begins by adding nothing, and without words it adds nothing ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from toddle.algorithms.intervention import Intervened
from toddle.core.config import config
from toddle.core.numbers import Count, NonNegative, Positive, Size
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
    """Decisions in an update; there is one with every update of the first actor."""
    kept: Count = 20_000
    """Decisions of the person's, and of those that words refined, that are kept; then the oldest go."""
    imitation: NonNegative = 1.0
    """Weight of the person's corrections."""
    values: NonNegative = 0.1
    """Weight of the critics' value; 0: it only imitates."""


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
        self.parts = states + self.privileged, 2 * motions, numbers, numbers, 1
        self.told = torch.zeros(0, sum(self.parts))  # states, words, the first one's residual, what was added, whether
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
        state, person, scale = rollout.state[0], self.person, self.corrected.config.scale
        base = state[:, -rollout.chain.shape[-1] :]
        if (rows := torch.from_numpy(person.talked)).any():
            said = (rollout.executed[0].to(base.device) - base) / scale
            rollout.chain[0, rows] = said[rows]
        if (rows := torch.from_numpy((person.acted | person.talked) & (person.said > 0))).any():
            own, wanted = (torch.from_numpy(np.array(part)).flatten(1).float() for part in (person.own, person.wanted))
            first, apart = (own - base.cpu()) / scale, ((wanted - own) / scale).clamp(-1.0, 1.0)
            words = torch.from_numpy(one_hot(person.said, self.motions))
            self.scaling.update(state[rows])
            known = self._known(rollout.state, rollout.observation)[0].cpu()
            acted = torch.from_numpy(person.acted)[:, None].float()
            new = torch.cat([known, words, first, apart, acted], 1)[rows]
            self.told = torch.cat([self.told, new])[-self.second.kept :]

    def update_actor(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the first actor, and then the second towards corrections that were drawn and up the critics."""
        return super().update_actor(batch) | self._listen()

    def _listen(self) -> dict[str, Tensor]:
        if not len(self.told):
            return {}
        rows = randint(len(self.told), (self.second.batch,), self.draws, torch.device("cpu"))
        known, words, first, wanted, acted = self.told[rows].to(self.device).split(self.parts, -1)
        added = self._added(known[:, : self.corrected.state_sizes[0]], words)
        miss = ((added - wanted).square().mean(-1, keepdim=True) * acted).sum() / acted.sum().clamp_min(1.0)
        value = self.critics(known, (first + added).clamp(-1.0, 1.0)).mean()
        self.stepped.zero_grad(set_to_none=True)
        loss = self.second.imitation * miss - self.second.values * value
        loss.backward(inputs=list(self.refiner.parameters()))
        self.stepped.step()
        return {"refine_loss": miss.detach(), "refine_value": value.detach()}

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
