"""PPO-Lagrangian: a limit on what episodes cost, held by a multiplier, with a critic of costs beside that of rewards.

SafeVLA (Zhang et al. 2025, arXiv 2503.03480) trains a VLA so; PPO-Lagrangian is Ray et al. 2019, "Benchmarking Safe
Exploration in Deep RL".

    A = (A_reward - l A_cost) / (1 + l)      maths.lagrangian.mixed_advantage
    l <- max(0, l + rate (J - b) / b)        maths.lagrangian.risen, J: the mean cost of the last episodes

From SafeVLA's release it differs where that was seen to go wrong: costs are counted by episode, not by rollout, so the
limit does not depend on a rollout's length; the multiplier moves by plain steps, not Adam's, and waits while only the
critics learn; the critic of costs learns in every iteration, not in the first ones alone.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toddle.algorithms.parts import Part
from toddle.core.config import config
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, NonNegative, Positive, Size
from toddle.core.protocols import Critic
from toddle.core.seeding import torch_generator
from toddle.experience.collect import RewardScale
from toddle.experience.rollout import Rollout
from toddle.maths.advantages import gae
from toddle.maths.lagrangian import mixed_advantage, risen, violation
from toddle.optim.flat_adam import FlatAdam

__all__ = ["CostConstraint", "LagrangianSettings"]


@config
class LagrangianSettings:
    """How the limit on costs is held."""

    rate: NonNegative = 0.05
    """Step of the multiplier, an iteration, for a cost of twice the limit; 0 leaves it where it starts."""
    start: NonNegative = 0.0
    """The multiplier at the start."""
    proportional: NonNegative = 0.0
    """What the multiplier has besides while the limit is exceeded, for a cost of twice the limit (PID's P)."""
    episodes: Count = 50
    """Episodes that ended last, over which the cost is taken."""
    epochs: Count = 4
    """Passes of the critic of costs over each rollout."""
    minibatches: Size = 4
    """Updates in one pass."""
    learning_rate: Positive = 1e-3
    """Adam's rate of the critic of costs."""


class CostConstraint(Part):
    """Takes what costs out of the advantages of one source, by a multiplier and a critic of costs of its own."""

    def __init__(
        self, critic: Critic, settings: LagrangianSettings, limit: float, *, lam: float, warm_up: int, seed: int
    ) -> None:
        """limit: wanted cost of an episode.  lam: of GAE.  warm_up: first iterations in which only critics learn."""
        self.critic, self.settings, self.limit, self.lam, self.warm_up = critic, settings, limit, lam, warm_up
        self.optimiser = FlatAdam({"cost critic": (critic, settings.learning_rate)}, max_norm=0.5)
        self.generator = torch_generator(seed, "cost minibatches")
        self.integral, self.iteration = settings.start, 0
        self.multiplier = settings.start
        self.lately: deque[float] = deque(maxlen=settings.episodes)
        self._sums: Tensor | None = None  # (B,) what the episodes under way have cost
        self._scale: RewardScale | None = None

    @property
    def holds(self) -> bool:
        """Whether it changes advantages; without a multiplier they stay what they were."""
        return self.multiplier > 0.0

    def apply(self, rollout: Rollout) -> dict[str, float]:
        """Move the multiplier, mix the rollout's advantages, and teach the critic of costs; return metrics.

        Raises InputError where the environment reports no cost, or episodes are taken as wholes.
        """
        if "cost" not in rollout.columns:
            raise problem("cost", "an environment that reports `cost`", "none", "name what is counted: --cost contact")
        if rollout.mask is not None or rollout.made is not None:
            raise problem("safety", "none, or a method with a value of every decision", "lagrangian")
        cost = rollout.columns["cost"].float()
        mean = self._note_episodes(rollout, cost)
        if mean is not None and self.iteration >= self.warm_up:
            violated = violation(mean, self.limit)
            self.integral = risen(self.integral, violated, rate=self.settings.rate)
            self.multiplier = max(0.0, self.integral + self.settings.proportional * max(0.0, violated))
        advantage, target, value = self._advantages(rollout, cost)
        if self.holds:
            rollout.advantage.copy_(mixed_advantage(rollout.advantage, advantage, self.multiplier))
        loss = self._learn(rollout, target)
        self.iteration += 1
        spread = float(target.var())
        explained = 1.0 - float((target - value).var()) / spread if spread > 0 else 0.0
        facts = {"cost/multiplier": self.multiplier, "cost/value_loss": loss, "cost/explained_variance": explained}
        facts["cost/step"] = float(cost.sum()) / float(_steps(rollout).sum())
        return facts if mean is None else facts | {"cost/episode": mean}

    def _note_episodes(self, rollout: Rollout, cost: Tensor) -> float | None:
        """Add up what episodes cost; return the mean of those that ended lately, None while there is none."""
        ended = (rollout.terminated | rollout.truncated).cpu()
        sums = torch.zeros(rollout.worlds) if self._sums is None else self._sums
        for t, paid in enumerate(cost.cpu()):
            sums = sums + paid
            self.lately.extend(sums[ended[t]].tolist())
            sums = torch.where(ended[t], 0.0, sums)
        self._sums = sums
        return float(np.mean(self.lately)) if self.lately else None

    @torch.no_grad()
    def _advantages(self, rollout: Rollout, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return advantages, the critic's targets and its values (T, B) of scaled costs."""
        if self._scale is None:
            self._scale = RewardScale(rollout.worlds)
        scaled = cost / self._scale.update(cost, rollout.terminated | rollout.truncated, rollout.discount)
        values = self.critic.value(rollout.observation_and_last)
        value, following = values[:-1], values[1:].clone()
        if rollout.finals is not None:
            rows, worlds = rollout.final_at.unbind(1)
            following[rows, worlds] = self.critic.value(rollout.finals)
        ends = (rollout.terminated, rollout.truncated)
        advantage = gae(scaled, value, following, *ends, discount=rollout.discount, lam=self.lam)
        return advantage, advantage + value, value

    def _learn(self, rollout: Rollout, target: Tensor) -> float:
        """Regress the critic of costs on its targets; return the mean loss.  Raises NaNError."""
        rollout.columns["cost_target"], losses = target, list[float]()
        for _ in range(self.settings.epochs):
            for part in rollout.minibatches(
                min(self.settings.minibatches, rollout.decisions), sequential=False, generator=self.generator
            ):
                self.optimiser.zero_grad()
                loss = (self.critic.value(part.observation) - part.columns["cost_target"]).square().mean()
                loss.backward()
                self.optimiser.clip()
                self.optimiser.step()
                losses.append(float(loss.detach()))
        del rollout.columns["cost_target"]
        if not np.isfinite(losses).all():
            raise NaNError("the critic of costs: its loss is not finite")
        self.critic.update_normaliser(rollout.observation)
        return float(np.mean(losses))

    def state_dict(self) -> dict[str, Any]:
        """Return the multiplier, the episodes it looks at, and the critic with its optimiser."""
        return {
            "critic": dict(self.critic.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "integral": self.integral,
            "multiplier": self.multiplier,
            "iteration": self.iteration,
            "lately": list(self.lately),
            "sums": None if self._sums is None else self._sums.clone(),
            "scale": None if self._scale is None else self._scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.critic.load_state_dict(state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.integral, self.multiplier = float(state["integral"]), float(state["multiplier"])
        self.iteration = int(state["iteration"])
        self.lately = deque((float(cost) for cost in state["lately"]), maxlen=self.settings.episodes)
        self._sums = None if state["sums"] is None else state["sums"].clone()
        if state["scale"] is not None:
            self._scale = RewardScale(len(state["scale"]["sums"]))
            self._scale.load_state_dict(state["scale"])


def _steps(rollout: Rollout) -> Tensor:
    """Return the control steps of each decision (T, B)."""
    return torch.ones_like(rollout.reward) if rollout.steps is None else rollout.steps.float()
