"""A teacher that acts in the learner's place, less and less: JSRL, and mixed behaviour.

JSRL (Uchendu et al. 2023, arXiv 2204.02372): the teacher acts in the first h control steps of an episode; h falls by a
stage once the mean reward is no worse than the best so far.  Mixed behaviour: at each control step the teacher acts
with probability beta, which falls to 0.
PPO does not learn from what the teacher did (its mask), for it is no draw of the policy; the critic's values carry
over.
Deviation from JSRL: the first stage leaves the last part of an episode to the learner, else it would learn nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from toddle.algorithms.jump_start import mean_reward
from toddle.algorithms.parts import Auxiliary
from toddle.core.config import config
from toddle.core.numbers import Count, NonNegative, Share
from toddle.core.protocols import Scorable
from toddle.core.types import Score
from toddle.experience.guide import Takeover
from toddle.experience.rollout import Minibatch, Rollout

__all__ = ["ActingConfig", "GuidedActing"]


@config
class ActingConfig:
    """How a teacher acts, and when it stops."""

    kind: Literal["start", "mixed"] = "start"
    """It acts in the first part of an episode (JSRL), or at drawn steps with probability beta."""
    stages: Count = 10
    """start: stages in which its part falls to nothing."""
    window: Count = 5
    """start: rollouts over which the mean reward is taken; a stage lasts at least so many."""
    tolerance: NonNegative = 0.05
    """start: a mean reward so far below the best one will do."""
    beta: Share = 0.5
    """mixed: probability that it acts, at the start."""
    until: Share = 0.5
    """mixed: share of the iterations after which beta is 0; it falls linearly."""


class GuidedActing(Auxiliary):
    """The schedule of a teacher that acts; it adds nothing to the loss."""

    def __init__(self, guide: Takeover, settings: ActingConfig, iterations: int) -> None:
        self.guide, self.settings, self.iterations = guide, settings, iterations
        self.iteration, self.stage = 0, settings.stages - 1
        self.rewards: list[float] = []  # of the stage under way
        self.best = -math.inf
        self._set()

    def _set(self) -> None:
        settings, guide = self.settings, self.guide
        if settings.kind == "start":
            guide.steps = round(guide.env.max_episode_steps * self.stage / settings.stages)
        else:
            left = 1.0 - self.iteration / max(1.0, settings.until * self.iterations)
            guide.share = settings.beta * max(0.0, left)
        guide.active = guide.steps > 0 or guide.share > 0.0

    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Note the reward; what follows from it holds from the next rollout on."""
        reward = mean_reward(rollouts[0])
        mask = rollouts[0].mask
        metrics = {
            "jumpstart/reward": reward,
            "jumpstart/on": float(self.guide.active),
            "jumpstart/acted": 0.0 if mask is None else 1.0 - float(mask.float().mean()),
        }
        self.iteration += 1
        if self.settings.kind == "start" and self.stage > 0:
            metrics["jumpstart/stage"] = float(self.stage)
            self.rewards.append(reward)
            recent = self.rewards[-self.settings.window :]
            average = sum(recent) / len(recent)
            if len(recent) == self.settings.window:
                if average >= self.best - self.settings.tolerance:
                    self.stage, self.rewards = self.stage - 1, []
                self.best = max(self.best, average)
        self._set()
        return metrics

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return 0."""
        return torch.zeros((), device=part.log_prob.device), {}

    def state_dict(self) -> dict[str, Any]:
        """Return how far it has come."""
        return {
            "iteration": self.iteration,
            "stage": self.stage,
            "rewards": list(self.rewards),
            "best": None if self.best == -math.inf else self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.iteration, self.stage = int(state["iteration"]), int(state["stage"])
        self.rewards = [float(x) for x in state["rewards"]]
        self.best = -math.inf if state["best"] is None else float(state["best"])
        self._set()
