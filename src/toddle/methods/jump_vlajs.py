"""VLAJS: a teacher's directions beside PPO, a few times a rollout and soon not at all."""

from __future__ import annotations

from toddle.methods._jump import HintSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-vlajs",
    "PPO with a teacher's directions, asked for less and less, then never",
    "Jump-Start Reinforcement Learning with Vision-Language-Action Regularization",
    HintSettings(),
)
