"""MEDAL: SAC in worlds that nobody resets, and a second policy that learns to bring them back."""

from __future__ import annotations

from typing import Any

import torch

from toddle.algorithms.reset_free import ResetFree, ResetFreeConfig
from toddle.algorithms.soft_actor_critic import SACConfig, SoftActorCritic
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._replay import OFFLINE
from toddle.methods.sac import SACSettings

__all__ = ["METHOD", "MEDALSettings"]


@config
class MEDALSettings(SACSettings):
    """Soft actor-critic beside a policy that leads back to states of the demonstrations."""

    reset_free: ResetFreeConfig = ResetFreeConfig()
    """Turns, and how the way back is learned."""

    def build(self, start: Start) -> Run:
        """Build it for one environment of states and its demonstrations."""
        if not self.demonstrations:
            raise problem("demonstrations", "at least one dataset, to whose states the way leads back", "none")
        if self.replay.keep != "memory":
            raise problem("replay.keep", "memory, where two policies learn", self.replay.keep)
        return super().build(start)

    def learner(self, *rest: Any, **named: Any) -> SoftActorCritic:
        """Return what learns."""
        store = rest[2].stores[OFFLINE]
        demonstrated = store.at(torch.arange(len(store))).observation
        return ResetFree(*rest, settings=self.reset_free, demonstrated=demonstrated, **named)


METHOD = Method(
    name="medal",
    what="SAC without resets: a second policy learns to go back to where demonstrations have been",
    paper="Sharma et al. 2022, arXiv 2205.05212",
    policies="squashed_gaussian",
    presets=(
        Preset(
            name="gutter",
            source="ours: small networks, a short look ahead, little entropy, half of every batch demonstrated",
            families=("gutter",),
            settings=MEDALSettings(
                hidden=(64, 64),
                sac=SACConfig(
                    discount=0.95,
                    batch=128,
                    ratio=0.5,
                    layer_norm=True,
                    critic_hidden=(64, 64),
                    temperature=0.1,
                    target_entropy=-0.5,
                    backup_entropy=False,
                    reward_scale=10.0,
                ),
            ),
            common={"worlds": 4, "max_episode_steps": 100_000},
        ),
        Preset(
            name="tasks",
            source="the authors' code: rewards times 10, a judge of 128 units at every tenth update, mixup",
            settings=MEDALSettings(sac=SACConfig(reward_scale=10.0), offline_share=0.25),
            common={"worlds": 4, "max_episode_steps": 100_000},
        ),
    ),
    deviations=(
        "where the task is done its value ends; in the authors' code it goes on",
        "demonstrations are a quarter of every batch, not among all that is kept; those of the way back are the task's",
        "a turn has 60 decisions; after a reset the task's policy begins",
        "states are normalised by running statistics, for the judge too",
    ),
)
