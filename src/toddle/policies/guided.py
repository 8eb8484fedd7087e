"""GuidedPolicy: any policy without a memory, whose chunks are chosen by a critic at test time.

    vgps   K chunks are drawn and one of them is chosen by its value (V-GPS, Nakamoto et al. 2024, arXiv 2410.13816)
    cem    the best of the K are fitted by a Gaussian from which K more are drawn, a few times over (the cross-entropy
           method, Rubinstein 1999); the best chunk of all is taken

The policy sees each observation once (`encode`), and all candidates of all worlds are one batch.  Nothing of it is
changed, and with one candidate the decision is the policy's own, bit by bit.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size
from toddle.core.protocols import Acting
from toddle.core.seeding import rand, randn
from toddle.core.types import Decision, Observation
from toddle.maths.choosing import choose
from toddle.models.q_ensemble import QEnsemble

__all__ = ["GuidanceConfig", "GuidedPolicy", "repeated"]

NARROWEST = 1e-3
"""Least standard deviation that cem draws with, of actions in [-1, 1]."""


@config
class GuidanceConfig:
    """How a critic has its say at test time."""

    method: Literal["vgps", "cem"] = "vgps"
    """vgps: choose among draws of the policy; cem: search on from the best of them."""
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
    control: Literal["none", "shuffled", "flipped"] = "none"
    """Controls: each candidate has another one's value (no gain is due), or the worst is best (harm is)."""


class GuidedPolicy(nn.Module):
    """`base` with a critic of what it sees and of a chunk's first actions.

    Where the policy's most likely action is asked for, that is the first candidate and the others are drawn.
    `decisions` counts those of worlds so far, `elsewhere` those that were not the first candidate.
    """

    kind: ClassVar[str] = "guided"

    def __init__(self, base: Acting, critic: QEnsemble, config: GuidanceConfig) -> None:
        """Hold both as they are.

        Raises InputError for a policy with a memory or with pictures, and for a critic of other sizes.
        """
        super().__init__()
        self.base: Any = base
        self.critic = critic
        self.config, self.horizon, self.sequential = config, base.horizon, base.sequential
        self.bodies, self.cameras = base.bodies, base.cameras
        self.decisions = self.elsewhere = 0
        if base.cameras:
            raise problem("steer", "a policy of states, as the critics of toddle offline are", f"kind '{base.kind}'")
        if base.initial_memory(1) is not None:
            raise problem("steer", "a policy without a memory", f"kind '{base.kind}'")
        for body in base.bodies:
            seen, chunk = critic.sizes
            if seen != body.proprio or chunk % body.action or chunk > base.horizon * body.action:
                wanted = f"one of {body.proprio} numbers and of up to {base.horizon} actions of {body.action}"
                raise problem("steering.critic", wanted, f"{seen} numbers and {chunk} of actions")

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return what the policy keeps of an observation."""
        seen: Observation = self.base.encode(observation)
        return seen

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations.  A chunk that no draw of the policy gave (cem, width) has no chain."""
        count = self.config.candidates
        seen = self.encode(observation)
        own, _ = self.base.act(seen, generator=generator, deterministic=deterministic) if deterministic else (None, 0)
        if count == 1:
            return own or self.base.act(seen, generator=generator)[0], None
        drawn, _ = self.base.act(repeated(seen, count - (own is not None)), generator=generator)
        decision = self._narrowed(seen, own, _joined(own, drawn, len(seen["proprio"])))
        values = self._values(seen, decision.action, generator)
        if self.config.method == "cem":
            return self._searched(seen, decision.action, values, generator), None
        index = choose(values, self.config.temperature, generator)
        self._count(index != 0)
        rows = torch.arange(len(index), device=index.device), index
        return Decision(decision.action[rows], decision.chain[rows], decision.log_prob[rows]), None

    def _narrowed(self, seen: Observation, own: Decision | None, drawn: Decision) -> Decision:
        """Return draws (B, K, ...) nearer to the most likely action by `width`; these have no chain."""
        if self.config.width == 1.0:
            return drawn
        centre = (own or self.base.act(seen, deterministic=True)[0]).action[:, None]
        action = centre + self.config.width * (drawn.action - centre)
        return Decision(action, action.new_zeros(*action.shape[:2], 0), action.new_zeros(*action.shape[:2], 0))

    def _values(self, seen: Observation, action: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the critics' least value (B, K) of chunks (B, K, H, A), held to what environments execute."""
        worlds, count = action.shape[:2]
        chunk = action.clamp(-1.0, 1.0).flatten(2)[..., : self.critic.sizes[1]].flatten(0, 1)
        states = seen["proprio"].repeat_interleave(count, 0)
        values = self.critic(states, chunk).amin(0).view(worlds, count)
        if self.config.control == "shuffled":
            return values.gather(1, rand((worlds, count), generator, values.device).argsort(1))
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


def repeated(observation: Observation, count: int) -> Observation:
    """Return every row `count` times, world by world; sentences are left out, which policies of states do not read."""
    given: Any = {key: value for key, value in observation.items() if isinstance(value, Tensor)}
    rows: Observation = {key: value.repeat_interleave(count, 0) for key, value in given.items()}  # type: ignore[assignment]
    return rows


def _joined(own: Decision | None, drawn: Decision, worlds: int) -> Decision:
    """Return decisions (B, K, ...), the policy's own first where there is one."""
    parts = []
    for name in ("action", "chain", "log_prob"):
        rest = getattr(drawn, name).unflatten(0, (worlds, -1))
        parts.append(rest if own is None else torch.cat([getattr(own, name)[:, None], rest], 1))
    return Decision(*parts)
