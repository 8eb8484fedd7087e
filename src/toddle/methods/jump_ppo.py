"""PPO of a state-based agent without a teacher: what the other methods of `toddle jumpstart` are compared with."""

from __future__ import annotations

from toddle.methods._jump import StateSettings, jump_method

__all__ = ["METHOD"]

METHOD = jump_method(
    "jump-ppo", "PPO of a state-based agent, nobody is asked", "Schulman et al. 2017, arXiv 1707.06347", StateSettings()
)
