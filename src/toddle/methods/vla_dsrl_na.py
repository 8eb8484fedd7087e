"""DSRL-NA: DSRL whose critics of noise learn from critics of actions (Wagenmaker et al. 2025, arXiv 2506.15799)."""

from __future__ import annotations

from dataclasses import replace

from toddle.algorithms.noise_aliased import NoiseAliased
from toddle.algorithms.soft_actor_critic import ONLINE
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.data.replay import Replay, Store
from toddle.experience.collect import Collector
from toddle.methods._base import Method, Preset, Start
from toddle.methods._steered import SMALL, SteeredSettings
from toddle.methods._vla import FLOWS
from toddle.policies.steered import SteeredConfig, SteeredPolicy

__all__ = ["METHOD", "NoiseAliasedSettings"]


@config
class NoiseAliasedSettings(SteeredSettings):
    """Noise over a frozen flow VLA, by critics of actions."""

    draws: Size = 4
    """K, draws of the VLA that are kept with each decision, at which the critics of noise learn."""

    def __post_init__(self) -> None:
        if self.steered.mode != "noise":
            raise problem("steered.mode", "noise with dsrl-na", self.steered.mode)
        if self.critic != "features":
            raise problem("critic", "features with dsrl-na", self.critic)

    def _policy(self, start: Start) -> SteeredPolicy:
        policy = super()._policy(start)
        policy.draws = self.draws
        return policy

    def _learner(
        self, start: Start, policy: SteeredPolicy, collector: Collector, store: Store, privileged: int
    ) -> NoiseAliased:
        replay = Replay({ONLINE: store}, {ONLINE: 1.0})
        return NoiseAliased(policy, collector, replay, self.sac, self.steering, seed=start.seed)


METHOD = Method(
    name="vla-dsrl-na",
    what="DSRL whose critics of noise learn from critics of actions, at draws of the VLA",
    paper="DSRL-NA, Wagenmaker et al. 2025, arXiv 2506.15799",
    policies=", ".join((*FLOWS, "steered")),
    presets=(
        Preset(
            name="small",
            kinds=(*FLOWS, "steered"),
            source="as dsrl's; ours: 4 draws kept with each decision",
            settings=NoiseAliasedSettings(
                steered=SteeredConfig(mode="noise", scale=1.5, steps=4, hidden=(128, 128)),
                critic="features",
                sac=replace(SMALL, target_entropy=0.0),
            ),
        ),
    ),
    deviations=(
        "critics of noise learn at draws that are kept with each decision, one step an update (paper: 10, new draws)",
        "targets ask the critics of noise at the next state, not the VLA and the critics of actions",
        "no prior data",
    ),
)
