"""PAINT: MEDAL that asks for a reset when it predicts that nothing leads back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from toddle.algorithms.proactive import Proactive, StuckConfig
from toddle.algorithms.soft_actor_critic import SoftActorCritic
from toddle.core.config import config, from_dict, to_dict
from toddle.methods import medal
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._replay import OFFLINE
from toddle.methods.medal import MEDALSettings

__all__ = ["METHOD", "PAINTSettings"]


@config
class PAINTSettings(MEDALSettings):
    """Soft actor-critic beside a way back, with a person who resets when asked."""

    stuck: StuckConfig = StuckConfig()
    """How it is learned what nothing leads out of, and who asks."""

    def build(self, start: Start) -> Run:
        """Build it.  Raises InputError where the environment cannot say what nothing leads out of."""
        if start.envs:
            start.envs[0].stuck()
        return super().build(start)

    def learner(self, *rest: Any, **named: Any) -> SoftActorCritic:
        """Return what learns."""
        store = rest[2].stores[OFFLINE]
        demonstrated = store.at(torch.arange(len(store))).observation
        more = {"settings": self.reset_free, "demonstrated": demonstrated, "stuck": self.stuck}
        return Proactive(*rest, **more, **named)


def _asking(preset: Preset, limit: int) -> Preset:
    """Return a preset of MEDAL's for worlds that are reset after so many control steps, if nobody asks before."""
    settings = from_dict(PAINTSettings, to_dict(preset.settings), where="paint")
    common = {**preset.common, "max_episode_steps": limit}
    return replace(preset, settings=settings, common=common)


METHOD = Method(
    name="paint",
    what="MEDAL, and it asks a person for a reset when it predicts that nothing leads back",
    paper="Xie et al. 2022, arXiv 2210.10765",
    policies="squashed_gaussian",
    presets=tuple(_asking(preset, 2000) for preset in medal.METHOD.presets),
    deviations=(
        *medal.METHOD.deviations,
        "500 updates after a reset, not 50,000; probabilities are the network's where labels are known too",
        "no random actions between a question and the reset; no stuck states are given beforehand",
        "worlds are reset after 2,000 control steps if nobody asked, for until then no stuck state is known",
    ),
)
