"""What an iteration of PPO takes in memory, before it is made (`toddle finetune --dry-run`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from toddle.algorithms.ppo import PPO
from toddle.core.live_memory import LiveBytes, at_batch
from toddle.core.memory import size_text
from toddle.experience.rollout import LARGE, Rollout

__all__ = ["IterationMemory", "forecast"]


class IterationMemory(NamedTuple):
    """Bytes beside the weights of policy and critic as they were built."""

    optimiser: int  # gradients and two moments of each number that learns
    rollouts: int
    gathering: int  # the most that acting and valuing have alive at once beside the rollouts
    shuffled: int  # columns of the rollouts in the order of a pass, and the minibatch's own of the large ones
    update: int  # the most that the passes of a part have alive at once

    @property
    def peak(self) -> int:
        """The most that is there at once: rollouts and moments always, then either acting or an update."""
        return self.optimiser + self.rollouts + max(self.gathering, self.shuffled + self.update)

    def line(self) -> str:
        """Return it in words."""
        return (
            f"memory of an iteration beside the weights: {size_text(self.peak)}; gradients and optimiser "
            f"{size_text(self.optimiser)}, rollouts {size_text(self.rollouts)}, acting {size_text(self.gathering)}, "
            f"an update's decisions {size_text(self.shuffled)} and activations {size_text(self.update)} "
            "(--ppo.accumulate and --ppo.checkpointing take less)"
        )


def forecast(learner: PPO) -> IterationMemory:
    """Return what an iteration takes: its rollouts are gathered once, as they are, and two small parts of a minibatch
    are learned from without a step.

    What parts of PPO write into their state stays; weights and moments do not change.
    """
    with LiveBytes() as live, learner.engine.acting(learner.policy) as acting:
        rollouts = [source.collect(acting, learner.critic)[0] for source in learner.sources]
    kept = live.live
    for rollout in rollouts:
        learner._estimate(rollout)
    for auxiliary in learner.auxiliaries:
        auxiliary.begin(rollouts, learner.policy)
        auxiliary.rehearse(rollouts)
    iteration, config = learner.iteration, learner.config
    rows, place = [_rows(learner, rollout) for rollout in rollouts], (0, 1, config.accumulate)
    learner.iteration, learner.config = max(iteration, config.critic_warm_up), replace(config, accumulate=1)
    try:
        passes = [
            at_batch(partial(_learned, learner, rollout, place), wanted)
            for rollout, wanted in zip(rollouts, rows, strict=True)
        ]
    finally:
        learner.iteration, learner.config = iteration, config
        learner.optimiser.zero_grad()
    return IterationMemory(
        optimiser=3 * sum(gradient.numel() * gradient.element_size() for gradient in learner.optimiser.gradients()),
        rollouts=kept,
        gathering=max(live.timeline) - kept,
        shuffled=sum(_shuffled(learner, rollout) for rollout in rollouts),
        update=max(passes),
    )


def _rows(learner: PPO, rollout: Rollout) -> int:
    """Return the worlds, or decisions, that are computed at once."""
    places = rollout.worlds if learner.policy.sequential else rollout.length * rollout.worlds
    return max(1, -(-places // (learner.config.minibatches * learner.config.accumulate)))


def _learned(learner: PPO, rollout: Rollout, place: tuple[int, int, int], rows: int) -> None:
    part = rollout.part(torch.arange(rows, device=rollout.reward.device), whole=learner.policy.sequential)
    part.place = place
    learner._gradients([part])


def _shuffled(learner: PPO, rollout: Rollout) -> int:
    """Return the bytes of a pass's copies: of small columns all, of large ones a minibatch's, less those of a part,
    which are counted where it is learned from."""
    held: list[Tensor] = list(rollout.held(learner.policy.sequential).values())
    sizes = [value.numel() * value.element_size() for value in held]
    parts = learner.config.minibatches
    whole = sum(size if size < LARGE else size // parts for size in sizes)
    return whole - sum(sizes) // (parts * learner.config.accumulate)
