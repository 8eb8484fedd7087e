"""DSRL: the noise that a frozen flow VLA begins at is learned (Wagenmaker et al. 2025, arXiv 2506.15799)."""

from __future__ import annotations

from dataclasses import replace

from toddle.methods._base import Method, Preset
from toddle.methods._steered import SMALL, SteeredSettings
from toddle.methods._vla import FLOWS
from toddle.policies.steered import SteeredConfig

__all__ = ["METHOD"]

METHOD = Method(
    name="vla-dsrl",
    what="soft actor-critic of the noise that a frozen flow VLA begins at",
    paper="DSRL, Wagenmaker et al. 2025, arXiv 2506.15799",
    policies=", ".join((*FLOWS, "steered")),
    presets=(
        Preset(
            name="small",
            kinds=(*FLOWS, "steered"),
            source="DSRL-SAC: m 1.5, entropy 0 a number, layer norm, first the VLA alone; ours: the rest",
            settings=SteeredSettings(
                steered=SteeredConfig(mode="noise", scale=1.5, steps=4, hidden=(128, 128)),
                sac=replace(SMALL, target_entropy=0.0),
            ),
        ),
    ),
)
