"""RLPD: SAC with demonstrations in half of every batch, many critics with layer norm, many updates a control step."""

from __future__ import annotations

import dataclasses

from toddle.algorithms.soft_actor_critic import SACConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods.sac import SACSettings

__all__ = ["METHOD", "RLPDSettings"]


@config
class RLPDSettings(SACSettings):
    """Soft actor-critic with prior data."""

    def build(self, start: Start) -> Run:
        """Build it for one environment of states and its demonstrations."""
        if not self.demonstrations:
            remedy = "record some (toddle record), or take --method sac"
            raise problem("demonstrations", "at least one dataset with method rlpd", "none", remedy)
        return super().build(start)


RLPD = SACConfig(
    ratio=20.0,
    critics=10,
    subset=2,
    layer_norm=True,
    actor_every=20,
    target_entropy=-0.5,
    learn_after=5000,
    rounds=20,
)

SPARSE = dataclasses.replace(RLPD, backup_entropy=False, temperature=0.01, ratio=4.0, actor_every=4, learn_after=500)

METHOD = Method(
    name="rlpd",
    what="soft actor-critic with demonstrations in every batch",
    paper="Ball et al. 2023, arXiv 2302.02948",
    policies="squashed_gaussian (and gaussian of toddle offline, to go on from)",
    presets=(
        Preset(
            name="tasks",
            source="the authors' code: 10 critics, 2 of them for a target, 20 updates a control step",
            settings=RLPDSettings(sac=RLPD),
            common={"worlds": 1},
        ),
        Preset(
            name="sparse",
            source="the authors' for sparse rewards: no entropy in targets; HIL-SERL's alpha; ours: 4 updates",
            settings=RLPDSettings(sac=SPARSE),
            common={"worlds": 1},
        ),
    ),
    deviations=(
        "learning begins with the actor's own draws, not with uniform ones",
        "states are normalised by running statistics",
    ),
)
