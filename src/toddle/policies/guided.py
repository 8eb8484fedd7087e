"""GuidedPolicy: any policy without a memory, whose chunks are chosen by a critic at test time.

    vgps      K chunks are drawn and one is chosen by its value (V-GPS, Nakamoto et al. 2024, arXiv 2410.13816)
    cem       the best of the K are fitted by a Gaussian from which K more are drawn, a few times over (the
              cross-entropy method, Rubinstein 1999); the best chunk of all is taken
    guidance  K flows follow the gradient of the value at the ends in sight, and one is chosen (QGF's released code)
    hume      K flows that begin at staggered times, one is chosen, and for some decisions its rest is noised a little
              and flows again from what is seen then (Hume, Song et al. 2025, arXiv 2505.21432)

The policy sees each observation once (`encode`), and all candidates of all worlds are one batch; of a policy that flows
all candidates share one prefix.  Nothing of it is changed, and with one candidate (guidance: with strength 0) the
decision is the policy's own, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size
from toddle.core.protocols import Memory
from toddle.core.seeding import rand, randn
from toddle.core.types import Decision, Observation
from toddle.maths.choosing import choose
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.around import Around, candidates, check_critic, decided, state_of
from toddle.policies.flow_access import OpenFlow, flows, integrate, open_flow, shifted

__all__ = ["GuidanceConfig", "GuidedPolicy"]

NARROWEST = 1e-3
"""Least standard deviation that cem draws with, of actions in [-1, 1]."""


@config
class GuidanceConfig:
    """How a critic has its say at test time."""

    method: Literal["vgps", "cem", "guidance", "hume"] = "vgps"
    """vgps: choose among draws of the policy; cem: search on from the best of them; guidance: follow the value's
    gradient; hume: choose seldom, and refine what was chosen."""
    candidates: Size = 10
    """K, chunks that are compared; 1: the policy's own decision."""
    width: Share = 1.0
    """Candidates are drawn with this share of the policy's deviation from its most likely action; 1: as it draws."""
    temperature: NonNegative = 0.1
    """vgps: softness of the choice in standard deviations of the candidates' values; 0: the best."""
    rounds: Count = 2
    """cem: times that a Gaussian is fitted and drawn from."""
    elites: Share = 0.3
    """cem: share of the candidates that it is fitted to, at least two."""
    spread: Positive = 1.0
    """cem: the fitted standard deviation is multiplied by this."""
    strength: NonNegative = 0.3
    """guidance: how far a chunk is moved on the way, in normalised actions (root mean square); 0: the policy's own."""
    stagger: Share = 0.1
    """hume: candidates begin at flow times from 0 to this, each from pure noise."""
    period: Size = 2
    """hume: decisions for which a chosen chunk lasts; the policy's chunks must be so long."""
    refine: Share = 0.5
    """hume: share of noise to which the rest of a chosen chunk is noised before it flows again; 0: it is executed."""
    control: Literal["none", "shuffled", "flipped"] = "none"
    """Controls: each candidate has another one's value (no gain is due), or the worst is best (harm is)."""


class GuidedPolicy(Around):
    """`base` with a critic of what it sees and of a chunk's first actions.

    Where the policy's most likely action is asked for, that is the first candidate and the others are drawn.
    `decisions` counts those of worlds so far, `elsewhere` those that were not the first candidate.
    """

    kind: ClassVar[str] = "guided"

    def __init__(self, base: Any, critic: QEnsemble, config: GuidanceConfig) -> None:
        """Hold both as they are.

        Raises InputError for a policy with a memory, for a VLA without kept features, and for a critic of other sizes.
        """
        super().__init__(base)
        self.critic, self.config = critic, config
        self.decisions = self.elsewhere = 0
        self._flows = flows(base)
        if config.method in ("guidance", "hume") and not self._flows:
            raise problem("steer", f"a policy that flows from noise, for {config.method}", f"kind '{base.kind}'")
        check_critic(critic, base, "steering.critic")
        if config.method == "hume" and (length := self._whole[0]) < config.period * base.horizon:
            most = f"at most {length // base.horizon}: chunks have {length} actions, {base.horizon} are executed"
            raise problem("steering.period", most, config.period)

    @property
    def _whole(self) -> tuple[int, int]:
        """(H, A) of the chunks of a policy that flows."""
        whole: tuple[int, int] = (
            self.base.flow_shape if self.cameras else (self.base.config.horizon, self.bodies[0].action)
        )
        return whole

    def initial_memory(self, batch: int) -> Memory:
        """Return nothing; with hume the chunk that was chosen (B, H, A) and the decisions that it is old (B,)."""
        if self.config.method != "hume" or self.config.candidates == 1:
            return None
        device = self.critic.weights[0].device
        return torch.zeros(batch, *self._whole, device=device), torch.full((batch,), -1, device=device)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations.  A chunk that no draw of the policy gave (cem, width) has no chain."""
        config, seen = self.config, self.encode(observation)
        if (config.candidates == 1 and config.method != "guidance") or (
            config.method == "guidance" and config.strength == 0.0
        ):
            return decided(self.base, seen, generator, deterministic), memory
        if config.method == "hume":
            return self._slowly(seen, memory, generator, deterministic)
        if self._flows:
            drawn, _ = self._flowing(seen, generator, deterministic)
        else:
            drawn = candidates(
                self.base, seen, config.candidates, generator, width=config.width, deterministic=deterministic
            )
        values = self._values(seen, drawn.action, generator)
        if config.method == "cem":
            return self._searched(seen, drawn.action, values, generator), None
        index = choose(values, config.temperature, generator)
        self._count(index != 0)
        rows = torch.arange(len(index), device=index.device), index
        return Decision(drawn.action[rows], drawn.chain[rows], drawn.log_prob[rows]), None

    # ---- policies that flow ------------------------------------------------------------------------------------------
    def _flowing(
        self, seen: Observation, generator: torch.Generator | None, deterministic: bool
    ) -> tuple[Decision, Tensor]:
        """Return candidates (B, K, ...) and their whole chunks (B, K, H, A), of one prefix."""
        config, flow = self.config, open_flow(self.base, seen)
        worlds, count = len(seen["proprio"]), config.candidates
        noise = randn((worlds, count, *flow.shape), generator, seen["proprio"].device)
        if deterministic and flow.from_zero:
            noise[:, 0] = 0.0
        noise = noise[:, :1] + config.width * (noise - noise[:, :1])
        begin = noise.new_zeros(worlds, count)
        if config.method == "hume":
            begin = begin + config.stagger * torch.arange(count, device=begin.device) / count
        push = self._push(seen, flow, generator) if config.method == "guidance" else None
        chunk = integrate(flow, noise, begin, push=push)
        action = flow.executed(chunk)
        return Decision(action, noise, action.new_zeros(worlds, count, 0)), chunk

    def _push(
        self, seen: Observation, flow: OpenFlow, generator: torch.Generator | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what is added to velocities: the direction in which the value of the ends rises, of set length.

        With the control `shuffled` it is a drawn direction, the same at all steps of a decision.
        """
        control, shape = self.config.control, (len(seen["proprio"]), self.config.candidates, *flow.shape)
        drawn = randn(shape, generator, seen["proprio"].device) if control == "shuffled" else None

        def push(ends: Tensor, tau: Tensor) -> Tensor:
            if drawn is not None:
                return self.config.strength * drawn
            with torch.enable_grad():
                ends = ends.detach().requires_grad_(True)
                value = self._critics(seen, flow.executed(ends)).sum()
                (slope,) = torch.autograd.grad(value, ends)
            scale = slope.square().mean((-2, -1), keepdim=True).sqrt()
            slope = slope / scale.clamp(min=torch.finfo(slope.dtype).tiny)
            return self.config.strength * (-slope if self.config.control == "flipped" else slope)

        return push

    def _slowly(
        self, seen: Observation, memory: Memory, generator: torch.Generator | None, deterministic: bool
    ) -> tuple[Decision, Memory]:
        """Choose anew where a chunk is used up, and refine what is left of it elsewhere."""
        config, worlds = self.config, len(seen["proprio"])
        chunk, age = self.initial_memory(worlds) if memory is None else memory
        due = seen["first"] | (age < 0) | (age + 1 >= config.period)
        age = torch.where(due, 0, age + 1)
        if due.any():
            drawn, whole = self._flowing(seen, generator, deterministic)
            index = choose(self._values(seen, drawn.action, generator), config.temperature, generator)
            self._count((index != 0)[due])
            chosen = whole[torch.arange(worlds, device=index.device), index]
            chunk = torch.where(due[:, None, None], chosen, chunk)
        flow, rest = open_flow(self.base, seen), shifted(chunk, age * self.horizon)
        if config.refine > 0.0 and not due.all():
            tau = 1.0 - config.refine
            noisy = tau * rest + config.refine * randn(rest.shape, generator, rest.device)
            again = integrate(flow, noisy[:, None], noisy.new_full((worlds, 1), tau))[:, 0]
            rest = torch.where(due[:, None, None], rest, again)
        action = flow.executed(rest[:, None])[:, 0]
        return Decision(action, rest, action.new_zeros(worlds, 0)), (chunk, age)

    # ---- values ------------------------------------------------------------------------------------------------------
    def _critics(self, seen: Observation, action: Tensor) -> Tensor:
        """Return the critics' least value (B, K) of chunks (B, K, H, A), held to what environments execute."""
        worlds, count = action.shape[:2]
        chunk = action.clamp(-1.0, 1.0)[..., : self.bodies[0].action].flatten(2)[..., : self.critic.sizes[1]]
        states = state_of(seen).repeat_interleave(count, 0)
        return self.critic(states, chunk.flatten(0, 1)).amin(0).view(worlds, count)

    def _values(self, seen: Observation, action: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what candidates (B, K, H, A) are chosen by (B, K): their values, or a control's."""
        values = self._critics(seen, action)
        if self.config.control == "shuffled":
            return values.gather(1, rand(values.shape, generator, values.device).argsort(1))
        return -values if self.config.control == "flipped" else values

    def _searched(
        self, seen: Observation, action: Tensor, values: Tensor, generator: torch.Generator | None
    ) -> Decision:
        """Return the best chunk of those given (B, K, H, A), with their values (B, K), and those that are searched."""
        best = max(2, round(self.config.elites * action.shape[1]))
        fitted, judged = action, values
        for _ in range(self.config.rounds):
            elite = judged.topk(best, dim=1).indices[..., None, None].expand(-1, -1, *action.shape[2:])
            chosen = fitted.gather(1, elite)
            width = (self.config.spread * chosen.std(1, correction=0, keepdim=True)).clamp(min=NARROWEST)
            noise = randn(action.shape, generator, action.device)
            fitted = (chosen.mean(1, keepdim=True) + width * noise).clamp(-1.0, 1.0)
            judged = self._values(seen, fitted, generator)
            action, values = torch.cat([action, fitted], 1), torch.cat([values, judged], 1)
        index = values.argmax(1)
        self._count(index != 0)
        found = action[torch.arange(len(index), device=index.device), index]
        return Decision(found, found.new_zeros(len(found), 0), found.new_zeros(len(found), 0))

    def _count(self, other: Tensor) -> None:
        self.decisions += len(other)
        self.elsewhere += int(other.sum())
