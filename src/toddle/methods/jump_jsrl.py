"""JSRL: the teacher begins each episode, the learner ends it (Uchendu et al. 2023, arXiv 2204.02372)."""

from __future__ import annotations

from toddle.methods._jump import ActingSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-jsrl",
    "the teacher acts in the first part of each episode, which falls to nothing",
    "Uchendu et al. 2023, arXiv 2204.02372",
    ActingSettings(),
    source="JSRL: ten stages; window and tolerance ours",
)
