"""ConRFT, online: a run of `toddle offline --method conrft` goes on with what its consistency policy does."""

from __future__ import annotations

from toddle.algorithms.offline import OfflineConfig, OfflineLearner
from toddle.algorithms.offline.conrft import ConRFT
from toddle.algorithms.offline.learner import ConRFTConfig
from toddle.core.config import config
from toddle.methods._base import Method, Preset
from toddle.methods._continued import ContinuedSettings

__all__ = ["METHOD", "ConRFTSettings"]


@config
class ConRFTSettings(ContinuedSettings):
    """ConRFT's online stage: no push, the policy climbs Q and stays near what is in the batch."""

    offline: OfflineConfig = OfflineConfig(conrft=ConRFTConfig(climb=1.0, imitation=0.1, push=0.0))
    """The algorithm; `discount` and `hidden` are those of the run that it goes on from."""

    def known_runs(self) -> dict[str, type[OfflineLearner]]:
        """Return which runs of `toddle offline` it goes on from, by method, and how."""
        return {"conrft": ConRFT}


METHOD = Method(
    name="conrft",
    what="goes on online with a consistency policy of toddle offline, critics and optimisers too",
    paper="ConRFT, Chen et al. 2025, arXiv 2502.05450",
    policies="consistency (of toddle offline)",
    presets=(
        Preset(
            name="tasks",
            source="the released online stage: weights 1 of Q and 0.1 of imitation, half of a batch old, no push",
            settings=ConRFTSettings(),
            common={"worlds": 1},
        ),
    ),
    deviations=(
        "policies of states, and nobody takes over (finetune --method hil-serl has a person)",
        "the imitation's weight does not fall",
    ),
)
