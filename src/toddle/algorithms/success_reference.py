"""Failures are paid by how near they came to the successes of the same rollout: SRPO (arXiv 2511.15605).

An episode's embedding is the mean of what the frozen backbone makes of its pictures at equal phases (the paper: a video
model of its own), so that a failure, which lasts longer, is not told by its length.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toddle.algorithms.parts import RewardTerm
from toddle.core.errors import problem
from toddle.core.seeding import torch_generator
from toddle.experience.rollout import Rollout
from toddle.maths.success_reference import success_reference_rewards

__all__ = ["SuccessReference"]


class SuccessReference(RewardTerm):
    """At the end of every failed episode, what its nearness to the rollout's successes is worth."""

    def __init__(self, *, phases: int, weight: float, control: Literal["none", "shuffled"], seed: int) -> None:
        """phases: pictures of an episode that are looked at.  control: embeddings of failures changed among them."""
        self.phases, self.weight, self.control = phases, weight, control
        self.order = torch_generator(seed, "success reference")
        self._facts: dict[str, float] = {}

    def reward(self, rollout: Rollout) -> Tensor:
        """Return (T, B).  Raises InputError where episodes are not whole, or nothing was seen of them."""
        if rollout.mask is None or rollout.success is None:
            raise problem("srpo", "whole episodes of an environment that reports success", "a rollout without them")
        if "context" not in rollout.observation:
            raise problem("srpo", "a VLA with a frozen backbone, whose features are kept", "none", "drop the LoRA")
        success, embedding = rollout.success, self.embeddings(rollout)
        if self.control == "shuffled":
            lost = (~success).nonzero()[:, 0]
            embedding[lost] = embedding[lost[torch.randperm(len(lost), generator=self.order).to(lost.device)]]
        found = success_reference_rewards(embedding, success, self._task(rollout))
        paid = torch.where(success, 0.0, self.weight * found) / rollout.reward_scale
        failures = float((~success).sum())
        self._facts = {
            "reward/reference": float(paid.sum()) / max(failures, 1.0),
            "reward/referenced": float((paid > 0).sum()) / max(failures, 1.0),
        }
        added = torch.zeros_like(rollout.reward)
        last = rollout.mask.long().sum(0) - 1
        added[last, torch.arange(rollout.worlds, device=last.device)] = paid
        return added

    def embeddings(self, rollout: Rollout) -> Tensor:
        """Return (B, D): the mean over tokens and over equal phases of each episode."""
        assert rollout.mask is not None
        length = rollout.mask.long().sum(0)
        share = torch.linspace(0.0, 1.0, self.phases, device=length.device)
        at = ((length - 1)[None] * share[:, None]).round().long()
        worlds = torch.arange(rollout.worlds, device=length.device).expand_as(at)
        context = rollout.observation["context"][at, worlds].float()
        real = rollout.observation["context_mask"][at, worlds][..., None]
        return ((context * real).sum(2) / real.sum(2).clamp(min=1)).mean(0)

    def _task(self, rollout: Rollout) -> Tensor:
        if "task" in rollout.observation:
            task: Tensor = rollout.observation["task"][0]
            return task
        return torch.zeros(rollout.worlds, dtype=torch.int64, device=rollout.reward.device)

    def metrics(self) -> dict[str, float]:
        """Return what a failure earned, and the share of failures that had a success to be compared with."""
        return self._facts

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the control's order stands."""
        return {"order": self.order.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        self.order.set_state(state["order"])
