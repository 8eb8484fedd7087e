"""RPD: the squared distance to the teacher's action at every control step (Juelg et al. 2025, arXiv 2503.05833)."""

from __future__ import annotations

from toddle.algorithms.jump_start import HintConfig
from toddle.methods._jump import HintSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-rpd",
    "PPO near a teacher's actions, which is asked at every control step",
    "Juelg et al. 2025, arXiv 2503.05833",
    HintSettings(hint=HintConfig(loss="squared", persistent=True, share=1.0, hold=1, weight=1.0)),
    source="RPD: weight 1, every step",
)
