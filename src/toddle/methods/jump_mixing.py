"""Mixed behaviour: the teacher acts with probability beta, the learner with 1 - beta."""

from __future__ import annotations

from toddle.algorithms.guided_acting import ActingConfig
from toddle.methods._jump import ActingSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-mixing",
    "the teacher acts with a probability that falls to 0",
    "Jump-Start Reinforcement Learning with Vision-Language-Action Regularization, section II",
    ActingSettings(acting=ActingConfig(kind="mixed")),
    source="ours",
)
