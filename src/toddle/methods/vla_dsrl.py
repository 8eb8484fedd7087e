"""DSRL: the noise that a frozen flow VLA begins at is learned (Wagenmaker et al. 2025, arXiv 2506.15799)."""

from __future__ import annotations

from toddle.algorithms.soft_actor_critic import SACConfig
from toddle.methods._base import Method, Preset
from toddle.methods._steered import SteeredSettings
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
                sac=SACConfig(
                    discount=0.99,
                    learning_rate=1e-3,
                    batch=128,
                    ratio=1.0,
                    layer_norm=True,
                    critic_hidden=(128, 128),
                    target_rate=0.02,
                    target_entropy=0.0,
                    temperature=0.01,
                    backup_entropy=False,
                    rounds=10,
                ),
            ),
        ),
    ),
)
