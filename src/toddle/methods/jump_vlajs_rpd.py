"""VLAJS(RPD): the schedule of VLAJS with RPD's squared distance in place of the direction."""

from __future__ import annotations

from toddle.algorithms.jump_start import HintConfig
from toddle.methods._jump import HintSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-vlajs-rpd",
    "VLAJS with the squared distance to the teacher's action",
    "Jump-Start Reinforcement Learning with Vision-Language-Action Regularization; arXiv 2503.05833",
    HintSettings(hint=HintConfig(loss="squared")),
)
