"""Rewards from how far a model of progress says the task is: `maths.potentials` over a rollout's decisions.

shaping      RFTF (arXiv 2505.19767) in Ng's form: the best policy stays what it was, whatever the model's errors
difference   Generalist's steps to go (arXiv 2509.15155), VLAC's deltas (arXiv 2509.15937) as the difference of what
             is said of two pictures, which takes back on the way back what it paid on the way there
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toddle.algorithms.parts import RewardTerm
from toddle.core.errors import problem
from toddle.core.types import Observation
from toddle.experience.rollout import Rollout
from toddle.maths.potentials import potential_reward
from toddle.policies.process_reward import RewardModel, seen_by_model

__all__ = ["PotentialReward"]


class PotentialReward(RewardTerm):
    """What the model's progress is worth, decision by decision, in the rollout's units."""

    looks_at_ends = True

    def __init__(
        self, model: RewardModel, *, form: Literal["shaping", "difference"], weight: float, same_features: bool
    ) -> None:
        """weight: what a whole demonstration is worth, in the environment's own units.  same_features: whether a
        rollout's features are of the model's own backbone and cameras."""
        self.model, self.form, self.weight, self.same_features = model, form, weight, same_features
        self.shapes = form == "shaping"
        self._facts: dict[str, float] = {}

    def reward(self, rollout: Rollout) -> Tensor:
        """Return (T, B) in the units of the rollout's rewards.

        Raises InputError where the environment does not report success, or pictures and features are not the model's.
        """
        if rollout.reached is None:
            raise problem("process reward", "an environment that reports `success`", "none")
        said = self._progress(rollout.observation_and_last).to(rollout.reward.device)
        now, following = said[:-1], said[1:].clone()
        self._write_ends(rollout, following, now)
        terminated, success = rollout.terminated, rollout.reached.to(rollout.reward.device)
        paid = self.weight * potential_reward(
            now, following, terminated, success, rollout.discount, shaping=self.form == "shaping"
        )
        real = torch.ones_like(terminated) if rollout.mask is None else rollout.mask
        paid = torch.where(real, paid, 0.0)
        self._facts = {
            "reward/potential": float(paid.sum()) / max(1, rollout.decisions),
            "reward/progress": float(now[real].mean()),
        }
        return paid / rollout.reward_scale

    def _write_ends(self, rollout: Rollout, following: Tensor, now: Tensor) -> None:
        """Write what follows the decisions with which episodes ended or were cut: the next row is the next episode's,
        or in whole episodes nobody's."""
        if rollout.mask is not None:  # the row after the last is what every world came to
            real = torch.cat([rollout.mask[1:], torch.ones_like(rollout.mask[:1])])
            following[:] = torch.where(real, following, now)
        elif rollout.finals is not None:
            rows, worlds = rollout.final_at[:, 0], rollout.final_at[:, 1]
            following[rows, worlds] = self._progress(rollout.finals).to(following.device)

    def _progress(self, observation: Observation) -> Tensor:
        return self.model.progress(seen_by_model(observation, same_features=self.same_features))

    def metrics(self) -> dict[str, float]:
        """Return what was paid a decision (before scaling), and the mean progress."""
        return self._facts
