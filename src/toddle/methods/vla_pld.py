"""PLD: a small residual is learned over a frozen VLA's actions (Xiao et al. 2025, arXiv 2511.00091)."""

from __future__ import annotations

from dataclasses import replace

from toddle.algorithms.steering import SteeringConfig
from toddle.methods._base import Method, Preset
from toddle.methods._steered import SMALL, SteeredSettings
from toddle.methods._vla import FLOWS
from toddle.policies.steered import SteeredConfig

__all__ = ["METHOD"]

METHOD = Method(
    name="vla-pld",
    what="soft actor-critic of what is added to a frozen VLA's actions",
    paper="PLD, Xiao et al. 2025, arXiv 2511.00091; Policy Decorator, Yuan et al. 2024, arXiv 2412.13630",
    policies=", ".join((*FLOWS, "steered")),
    presets=(
        Preset(
            name="small",
            kinds=(*FLOWS, "steered"),
            source="Policy Decorator: a ramp, entropy -1 a number; ours: the rest, found on dots/one",
            settings=SteeredSettings(
                steered=SteeredConfig(mode="residual", scale=0.5, steps=4, hidden=(128, 128), log_std=-1.0),
                steering=SteeringConfig(ramp=10_000),
                sac=replace(SMALL, target_entropy=-1.0),
            ),
        ),
    ),
)
