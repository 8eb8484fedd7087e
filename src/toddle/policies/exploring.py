"""Policies that explore to collect data: another policy, as it is, with something disturbed in what it sees or does.

    NoisyActions    noise on the actions: the control of the others
    NoisyCondition  noise on what the policy sees, by another draw at each step of its chain (SIME, Jin et al. 2025,
                    arXiv 2505.01396); early steps are noisier by default, as in CADS (arXiv 2310.17347)
    Provoking       for some decisions in a row the worst of K draws in a critic's eyes, then the policy itself again
                    (after RESample, arXiv 2510.17640): what follows shows how to recover

With size 0 (K = 1) each is the policy, bit by bit.  `astray`, (B,) bool, says in which worlds the last decision should
not be imitated; None: in none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.protocols import Flowing, Memory
from toddle.core.seeding import rand, randint, randn
from toddle.core.types import Decision, Observation
from toddle.maths.exploration import When, noise_level
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.around import Around, check_critic, decided, repeated
from toddle.policies.denoising import DenoisingPolicy

__all__ = ["Exploring", "NoisyActions", "NoisyCondition", "Provoking"]


class Exploring(Around):
    """A policy without a memory, disturbed; abstract."""

    kind: ClassVar[str] = "exploring"

    def __init__(self, base: Any) -> None:
        """Hold it as it is.  Raises InputError for a policy with a memory of more than the decision."""
        super().__init__(base, features=False, field="policy")
        self.astray: Tensor | None = None


class NoisyActions(Exploring):
    """White Gaussian noise of deviation `size` on every number of an action."""

    def __init__(self, base: Any, size: float) -> None:
        super().__init__(base)
        self.size = size

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
        own = decided(self.base, observation, generator, deterministic)
        if self.size == 0.0:
            return own, None
        action = own.action + self.size * randn(own.action.shape, generator, own.action.device)
        return Decision(action, own.chain, own.log_prob.new_zeros(len(action), 0)), None


class NoisyCondition(Exploring):
    """Gaussian noise of deviation `size` on what the policy sees, times `noise_level` at each step of its chain.

    A denoising policy of states: on its normalised state.  A VLA that acts by a flow: on its features of pictures and
    sentence, in units of their root mean square.  Any other policy of states decides in one step: on its state, in
    units of each number's deviation over the worlds' states so far.
    """

    def __init__(self, base: Any, size: float, when: When = "early") -> None:
        """Raises InputError for a VLA that does not act by a flow from noise over features that are kept."""
        super().__init__(base)
        self.size, self.when = size, when
        self._flow = isinstance(base, Flowing) and base.from_noise
        if base.cameras and not (self._flow and base.context_width):
            wanted = "a policy of states, or a VLA that acts by a flow from noise over frozen features"
            raise problem("policy", wanted, base.kind)
        self._seen: list[Tensor] = []

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations.  A flow begins at drawn noise, whether `deterministic` or not."""
        if self.size == 0.0:
            return decided(self.base, observation, generator, deterministic and not self._flow), None
        if self._flow:
            return self._flowing(observation, generator), None
        if isinstance(self.base, DenoisingPolicy):
            self.base.disturb = self._disturbance(self.base.links.steps, generator)
            try:
                return decided(self.base, observation, generator, deterministic), None
            finally:
                self.base.disturb = None
        state = observation["proprio"]
        self._seen = [*self._seen, state][-50:]
        spread = torch.cat(self._seen).std(0, correction=0)
        moved = state + self.size * spread * randn(state.shape, generator, state.device)
        noisy: Any = {**observation, "proprio": moved}
        return decided(self.base, noisy, generator, deterministic), None

    def _disturbance(self, steps: int, generator: torch.Generator | None) -> Callable[[int, Tensor], Tensor]:
        def disturb(step: int, features: Tensor) -> Tensor:
            level = self.size * noise_level(step, steps, self.when)
            return features + level * randn(features.shape, generator, features.device)

        return disturb

    def _flowing(self, observation: Observation, generator: torch.Generator | None) -> Decision:
        seen = self.encode(observation)
        clean = seen["context"]
        scale = clean.float().square().mean((-2, -1), keepdim=True).sqrt()
        noise = randn((len(clean), *self.base.flow_shape), generator, clean.device)
        steps = self.base.config.steps
        disturb, x = self._disturbance(steps, generator), noise
        for step in range(steps):
            noisy: Any = {**seen, "context": clean + scale * disturb(step, torch.zeros_like(clean))}
            velocity, _ = self.base.open_flow(noisy, None)
            tau = x.new_full((len(x), 1), step / steps)
            x = x + velocity(x[:, None], tau)[:, 0] / steps
        action = self.base.executed(x, seen)
        return Decision(action, noise, action.new_zeros(len(action), 0))


class Provoking(Exploring):
    """In every episode, `length` decisions in a row are the lowest in value of `candidates` draws of the policy.

    The first of them is drawn from the first `within` decisions.  Of the draws, the tenth that the policy itself finds
    least likely is left out (where it says).  control: any draw instead of the lowest, at the same decisions.
    """

    def __init__(
        self, base: Any, critic: QEnsemble, *, candidates: int, length: int, within: int, control: bool = False
    ) -> None:
        """Raises InputError for a VLA, and for a critic of other sizes."""
        super().__init__(base)
        if base.cameras:
            raise problem("policy", "a policy of states, as the critics of toddle offline are", f"kind '{base.kind}'")
        check_critic(critic, base, "critic")
        self.critic, self.candidates, self.length, self.within = critic, candidates, length, within
        self.control = control

    def initial_memory(self, batch: int) -> Memory:
        """Return the decisions made and the one at which trouble begins, (2, B) int64; the latter is not drawn yet."""
        return torch.zeros(2, batch, dtype=torch.int64)

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
        own = decided(self.base, observation, generator, deterministic)
        if self.candidates == 1:
            return own, memory
        worlds, first = len(own.action), observation["first"]
        made, begins = self.initial_memory(worlds).to(first.device) if memory is None else memory
        drawn = randint(self.within, (worlds,), generator, first.device)
        made, begins = torch.where(first, 0, made), torch.where(first, drawn, begins)
        self.astray = (made >= begins) & (made < begins + self.length)
        action = torch.where(self.astray[:, None, None], self._worst(observation, generator), own.action)
        return Decision(action, own.chain, own.log_prob), torch.stack([made + 1, begins])

    def _worst(self, observation: Observation, generator: torch.Generator | None) -> Tensor:
        """Return the chunks (B, H, A) that are lowest in value among draws that the policy finds likely enough."""
        count, worlds = self.candidates, len(observation["proprio"])
        drawn = decided(self.base, repeated(observation, count), generator, False)
        action = drawn.action.unflatten(0, (worlds, count))
        likely = drawn.log_prob.sum(-1).view(worlds, count)
        chunk = action.clamp(-1.0, 1.0).flatten(2)[..., : self.critic.sizes[1]].flatten(0, 1)
        values = self.critic(observation["proprio"].repeat_interleave(count, 0), chunk).amin(0).view(worlds, count)
        if self.control:
            values = rand((worlds, count), generator, values.device)
        values = torch.where(likely < likely.quantile(0.1, dim=1, keepdim=True), torch.inf, values)
        return action[torch.arange(worlds, device=action.device), values.argmin(1)]
