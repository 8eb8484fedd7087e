"""A teacher's directions beside PPO, until it is not needed: VLAJS ("Jump-Start Reinforcement Learning with
Vision-Language-Action Regularization"), and the forms of RPD (arXiv 2503.05833) that it is compared with.

    L = L_PPO + lambda L_dir        (RPD: the squared distance in place of L_dir)
    gain    = max(0, mean reward of the last rollouts - of those before)
    N_calls = max(N_min, floor(N_max exp(-kappa gain))),    lambda = lambda_0 exp(-kappa gain)
    off for good once the mean reward has risen `rises` times in a row and is above where it was stuck

The policy's mean alone is pulled, so its spread stays PPO's.  After it is off, nothing is left of it: no column, no
question, no term of the loss.
Deviations: the mean reward is a running one (half a window), for that of single rollouts is noisy.  Rewards are
measured as a share of what success pays, and the threshold as a share of the way from the plateau of the first rollouts
to it: S4 gives 3, where its tasks are stuck at 2 and success pays 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from toddle.algorithms.parts import Auxiliary
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size, Whole
from toddle.core.protocols import Scorable
from toddle.core.types import ActionParts, Score
from toddle.experience.guide import HINT, VALID, Hints
from toddle.experience.rollout import Minibatch, Rollout
from toddle.maths.jump_start import calls_of, direction_loss, gain_of, rising, squared_loss

__all__ = ["HintConfig", "JumpStart", "mean_reward"]


@config
class HintConfig:
    """A teacher's directions as a term of the loss, and when they end."""

    loss: Literal["direction", "squared"] = "direction"
    """The angle to the teacher's motion (its length and the gripper are free), or the squared distance to its
    action."""
    weight: NonNegative = 0.5
    """lambda_0, weight of the loss."""
    hold: Size = 5
    """D, control steps that an answer is a target for."""
    share: Share = 0.2
    """Share of a rollout's decisions that have a target while the teacher is asked most."""
    least: Whole = 1
    """N_min, calls of a rollout while the teacher is on."""
    persistent: bool = False
    """Ask as often, with the same weight, to the end."""
    kappa: NonNegative = 5.0
    """How fast calls and weight fall with the gain (S4's 1, where success pays 5)."""
    window: Count = 10
    """Rollouts over which the gain is taken: the later half against the earlier; the first half is the plateau."""
    rises: Count = 3
    """The mean reward of the last half window must have risen so many times in a row for the teacher to go."""
    above: Share = 1.0 / 3.0
    """And be so far on the way from the plateau to what success pays."""
    success_reward: Positive = 1.0
    """What a control step with success pays, before scaling."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise problem("window", "at least 2, one rollout in each half", self.window)


def mean_reward(rollout: Rollout) -> float:
    """Return the mean reward of a decision in the environment's units (as far as no scaled reward was clipped)."""
    return float(rollout.reward.mean()) * rollout.reward_scale


class JumpStart(Auxiliary):
    """The loss towards a teacher's hints, and the schedule of asking for them."""

    def __init__(self, guide: Hints, settings: HintConfig, parts: ActionParts) -> None:
        """`guide` asks in the environment of the collector that PPO takes its rollouts from."""
        self.guide, self.settings, self.parts = guide, settings, parts
        self.rewards: list[float] = []
        self.most = guide.calls_for(settings.share)
        self.off_at: int | None = None
        """The iteration after which it went off."""
        self.iteration, self.gain = 0, 0.0
        self._set()

    @property
    def on(self) -> bool:
        """Whether the teacher is still asked."""
        return self.off_at is None

    @property
    def weight(self) -> float:
        """lambda, the weight of the loss now."""
        settings = self.settings
        return settings.weight * (1.0 if settings.persistent else math.exp(-settings.kappa * self.gain))

    def _set(self) -> None:
        settings, guide = self.settings, self.guide
        guide.active = self.on
        fewer = calls_of(self.most, settings.least, settings.kappa, self.gain)
        guide.wanted = self.most if settings.persistent else fewer

    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Note the reward; what follows from it holds from the next rollout on."""
        reward = mean_reward(rollouts[0]) / self.settings.success_reward
        self.iteration += 1
        self.used = self.weight
        metrics = {
            "jumpstart/reward": reward,
            "jumpstart/on": float(self.on),
            "jumpstart/weight": self.used if self.on else 0.0,
            "jumpstart/gain": self.gain,
        }
        if self.on and not self.settings.persistent:
            self.rewards.append(reward)
            self.gain = gain_of(self.rewards, self.settings.window)
            if self._learned():
                self.off_at = self.iteration
            self._set()
        return metrics

    def _learned(self) -> bool:
        """Whether the reward has left its plateau for good."""
        settings, half = self.settings, self.settings.window // 2
        if len(self.rewards) < settings.window:
            return False
        means = [sum(self.rewards[end - half : end]) / half for end in range(half, len(self.rewards) + 1)]
        plateau = means[0]
        return rising(means, settings.rises) and means[-1] > plateau + settings.above * (1.0 - plateau)

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss towards the hints of a minibatch; 0 without facts where there are none."""
        if HINT not in part.columns:
            return torch.zeros((), device=part.log_prob.device), {}
        if score.mean is None or score.mean.shape[-2] != 1:
            raise problem("policy", "one with a mean action that decides at every control step", "another")
        mean, target, valid = score.mean[..., 0, :], part.columns[HINT], part.columns[VALID]
        if self.settings.loss == "squared":
            loss = squared_loss(mean, target, valid)
            return self.used * loss, {"jumpstart/loss": loss.detach()}
        loss, cosine = direction_loss(mean, target, valid, self.parts.motions)
        return self.used * loss, {"jumpstart/loss": loss.detach(), "jumpstart/cosine": cosine}

    def state_dict(self) -> dict[str, Any]:
        """Return the rewards so far, and whether and when it went off."""
        return {"rewards": list(self.rewards), "off_at": self.off_at, "iteration": self.iteration, "gain": self.gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.rewards, self.iteration = [float(x) for x in state["rewards"]], int(state["iteration"])
        self.off_at = None if state["off_at"] is None else int(state["off_at"])
        self.gain = float(state["gain"])
        self._set()
