"""Thoughts are paid for saying where the actions that follow them go: ThinkAct's reward (arXiv 2507.16815).

A thought here is one action's tokens: the mean of the chunk.  The path that it means goes straight, by that much each
step; the one that was made adds up the actions that were executed.  Both are in units of the farthest that a chunk can
go.  An episode is paid the mean over its decisions, at its end, so that a long one earns no more.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from toddle.algorithms.parts import RewardTerm
from toddle.core.errors import problem
from toddle.core.seeding import torch_generator
from toddle.experience.rollout import Rollout
from toddle.maths.plan_consistency import plan_rewards

__all__ = ["PlanConsistency"]


class PlanConsistency(RewardTerm):
    """At the end of every episode, `weight` (goal ends + (1 - goal) paths) of its thoughts."""

    def __init__(
        self,
        policy: Any,
        motions: slice,
        *,
        weight: float,
        goal: float,
        control: Literal["none", "shuffled"],
        seed: int,
    ) -> None:
        """motions: which numbers of an action move something.  goal: share of where paths end, in what is paid.

        control: each decision is paid for another one's thought.
        """
        self.policy, self.motions, self.weight, self.goal, self.control = policy, motions, weight, goal, control
        self.order = torch_generator(seed, "plan consistency")
        self._facts: dict[str, float] = {}

    def reward(self, rollout: Rollout) -> Tensor:
        """Return (T, B).  Raises InputError where episodes are not whole."""
        if rollout.mask is None:
            raise problem("thinkact", "whole episodes, as groups are", "a rollout of parts of them")
        real = rollout.mask
        thought, chunk = (part[real].cpu() for part in self.policy.parted(rollout.chain))
        if self.control == "shuffled":
            thought = thought[torch.randperm(len(thought), generator=self.order)]
        steps = torch.full((len(chunk),), chunk.shape[1]) if rollout.steps is None else rollout.steps[real].cpu()
        goal, path = plan_rewards(*self.paths(thought, chunk, steps))
        found = torch.zeros_like(rollout.reward)
        found[real] = torch.from_numpy(self.goal * goal + (1.0 - self.goal) * path).to(found)
        self._facts = {"reward/plan_goal": float(goal.mean()), "reward/plan_path": float(path.mean())}
        length = real.sum(0)
        added, worlds = torch.zeros_like(found), torch.arange(rollout.worlds, device=real.device)
        mean = found.sum(0) / length.clamp(min=1)
        added[length - 1, worlds] = self.weight * mean / rollout.reward_scale
        return added

    def paths(self, thought: Tensor, chunk: Tensor, steps: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the paths (N, H, D) of thoughts (N, A) and chunks (N, H, A) of which `steps` (N,) were executed."""
        done = (torch.arange(chunk.shape[1]) < steps[:, None])[..., None]
        far = steps.clamp(min=1)[:, None, None] * (chunk[..., self.motions].shape[-1] ** 0.5)
        said = thought[:, None, self.motions].clamp(-1.0, 1.0).expand(-1, chunk.shape[1], -1)
        made = chunk[..., self.motions].clamp(-1.0, 1.0)
        planned, real = ((part * done).cumsum(1) / far for part in (said, made))
        return planned.double().numpy(), real.double().numpy()

    def metrics(self) -> dict[str, float]:
        """Return the two parts, the mean over decisions."""
        return self._facts

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the control's order stands."""
        return {"order": self.order.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        self.order.set_state(state["order"])
