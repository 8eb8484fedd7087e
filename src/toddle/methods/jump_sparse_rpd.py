"""Sparse RPD: RPD's squared distance at the few steps VLAJS asks about, to the end of training."""

from __future__ import annotations

from toddle.algorithms.jump_start import HintConfig
from toddle.methods._jump import HintSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-sparse-rpd",
    "RPD at a fifth of the steps, to the end",
    "Jump-Start Reinforcement Learning with Vision-Language-Action Regularization; arXiv 2503.05833",
    HintSettings(hint=HintConfig(loss="squared", persistent=True)),
)
