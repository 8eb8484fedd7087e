"""RetryingPolicy: a policy that goes back and tries again when things go slower than a critic promised.

After Bellman-Guided Retrials (Du et al. 2024, arXiv 2406.15917; no code was released).  A critic that is paid -1 a step
until success says how many steps are left, n(s).  Each decision of H steps should leave H fewer; the sum of the
shortfalls (a CUSUM with a slack) above `threshold` steps is an alarm:

    c_t = max(0, c_{t-1} + n(s_t) - n(s_{t-1}) + (1 - slack) H)

Then the last `back` decisions are undone, each with its actions reversed in time and sign, and a chunk is drawn that is
unlike those with which episodes went wrong.  Each decision is undone once: a retrial that fails soon goes back to where
it began.  With no retrial allowed the policy acts alone, bit by bit.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, Positive, Share, Whole
from toddle.core.protocols import Memory
from toddle.core.seeding import rand
from toddle.core.types import Decision, Observation
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.around import Around, check_critic, decided, repeated, state_of

__all__ = ["RetryConfig", "RetryingPolicy", "shortfall", "steps_left"]


@config
class RetryConfig:
    """When a policy tries again, and how."""

    threshold: Positive = 15.0
    """Steps by which things may be slower than the critic promised."""
    slack: Share = 0.2
    """Share of the promised speed that is not asked for."""
    back: Count = 4
    """Decisions that are undone; fewer where no more were made since the episode began, or since the last retrial."""
    most: Whole = 3
    """Retrials of an episode; 0: the policy alone."""
    held: Whole = 1
    """Numbers at the end of an action that are no motions (a gripper): undone by holding the last of them."""
    rate: Share = 0.02
    """With the control `shuffled`: share of decisions with an alarm at random, in place of the critic's."""


def steps_left(value: Tensor, discount: float) -> Tensor:
    """Return the steps n of which -(1 - discount^n) / (1 - discount) is the value, where each costs 1; at least 0."""
    least = (1.0 + (1.0 - discount) * value).clamp(min=1e-6, max=1.0)
    return least.log() / math.log(discount)


def shortfall(before: Tensor, now: Tensor, last: Tensor, steps: int, slack: float) -> Tensor:
    """Return the sum of shortfalls (B,) after a decision of `steps` steps, of `before` until then."""
    return (before + now - last + (1.0 - slack) * steps).clamp(min=0.0)


class RetryingPolicy(Around):
    """`base` with a critic that says when to try again.  `alarms` counts them."""

    kind: ClassVar[str] = "retrying"

    def __init__(
        self,
        base: Any,
        critic: QEnsemble,
        discount: float,
        config: RetryConfig,
        *,
        candidates: int,
        control: bool = False,
    ) -> None:
        """candidates: draws of which the one is taken that is least like what failed; 1: the policy's own.

        control: alarms at random.  Raises InputError for a policy that remembers, or a critic of other sizes."""
        super().__init__(base)
        check_critic(critic, base, "steering.critic")
        body = base.bodies[0]
        if config.held > body.action:
            raise problem("steering.held", f"at most {body.action}, numbers of an action", config.held)
        self.critic, self.discount, self.config = critic, discount, config
        self.candidates, self.control, self.alarms = candidates, control, 0

    def initial_memory(self, batch: int) -> Memory:
        """Return an empty memory of the episodes (B): numbers, chunks made and chunks that failed."""
        shape = self.horizon, self.bodies[0].action
        numbers = torch.zeros(batch, 5)  # shortfall, steps left, decisions still to be undone, retrials, ones to undo
        numbers[:, 1] = math.nan
        return numbers, torch.zeros(batch, self.config.back, *shape), torch.full((batch, self.config.most, *shape), 1e3)

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
        config, seen = self.config, self.encode(observation)
        own = decided(self.base, seen, generator, deterministic)
        if not config.most:
            return own, memory
        first, device = seen["first"], own.action.device
        fresh = tuple(part.to(device) for part in self.initial_memory(len(first)))
        numbers, made, failed = fresh if memory is None else memory
        numbers, made, failed = (
            torch.where(first.view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(fresh, (numbers, made, failed), strict=True)
        )
        total, last, undo, tries, able = numbers.unbind(1)
        action = own.action[..., : self.bodies[0].action].clamp(-1.0, 1.0)
        left = steps_left(self._value(seen, action), self.discount)
        going = (undo == 0) & last.isfinite()
        total = torch.where(going, shortfall(total, left, last, self.horizon, config.slack), 0.0)
        alarm = going & (tries < config.most) & self._alarmed(total, generator)
        self.alarms += int(alarm.sum())
        begun = made[torch.arange(len(made), device=device), config.back - able.long().clamp(min=1)]
        failed = self._noted(failed, begun, tries, alarm)
        retry = (undo == 1) & ~first  # the last one was undone: begin anew
        undo = torch.where(alarm, able, (undo - 1).clamp(min=0.0))
        able = torch.where(retry, 0.0, able)
        tries, total = tries + alarm.float(), torch.where(alarm, 0.0, total)
        if retry.any() and self.candidates > 1:
            action = torch.where(retry[:, None, None], self._unlike(seen, failed, generator), action)
        back = self._undone(made, able - undo)
        acting = undo == 0
        done = torch.where(acting[:, None, None], action, back)
        made = torch.where(acting[:, None, None, None], torch.cat([made[:, 1:], done[:, None]], 1), made)
        able = torch.where(acting, (able + 1.0).clamp(max=config.back), able)
        last = torch.where(acting, left, math.nan)
        numbers = torch.stack([total, last, undo, tries, able], 1)
        return Decision(done, own.chain, own.log_prob.new_zeros(len(done), 0)), (numbers, made, failed)

    def _value(self, seen: Observation, action: Tensor) -> Tensor:
        """Return the critics' least value (B,)."""
        return self.critic(state_of(seen), action.flatten(1)[:, : self.critic.sizes[1]]).amin(0)

    def _alarmed(self, total: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.control:
            return rand(total.shape, generator, total.device) < self.config.rate
        return total > self.config.threshold

    def _noted(self, failed: Tensor, begun: Tensor, tries: Tensor, alarm: Tensor) -> Tensor:
        """Return the chunks that failed (B, most, H, A), with what the undone decisions began with where alarmed."""
        slot = tries.long().clamp(max=self.config.most - 1)
        place = torch.nn.functional.one_hot(slot, self.config.most).bool() & alarm[:, None]
        return torch.where(place[..., None, None], begun[:, None], failed)

    def _undone(self, made: Tensor, undone: Tensor) -> Tensor:
        """Return the actions (B, H, A) that undo the decision whose turn it is, after `undone` (B,): the last first."""
        index = (made.shape[1] - 1 - undone.long()).clamp(min=0)
        chunk = made[torch.arange(len(made), device=made.device), index]
        held = self.config.held
        motion = -chunk.flip(1)
        if held:
            motion[..., -held:] = made[:, -1, -1:, -held:].expand(-1, motion.shape[1], -1)
        return motion

    def _unlike(self, seen: Observation, failed: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the draws (B, H, A) that are least like the chunks that failed."""
        count, worlds = self.candidates, len(failed)
        drawn = decided(self.base, repeated(seen, count), generator, False).action[..., : failed.shape[-1]]
        drawn = drawn.unflatten(0, (worlds, count)).flatten(2)
        spread = drawn.std(1, correction=0).square().mean(-1).clamp(min=1e-6)
        apart = (drawn[:, :, None] - failed.flatten(2)[:, None]).square().mean(-1)  # (B, K, most)
        alike = (-apart / (2.0 * spread[:, None, None])).exp().sum(-1)
        chosen: Tensor = drawn[torch.arange(worlds, device=drawn.device), alike.argmin(1)]
        return chosen.view(worlds, *failed.shape[2:])
