"""FLaRe: PPO on a VLA, made stable by caution (Hu et al. 2024, arXiv 2409.16578)."""

from __future__ import annotations

from dataclasses import replace

from toddle.algorithms.ppo import PPOConfig
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Method, Preset
from toddle.methods._vla import TOKENS, VLAPPOSettings
from toddle.policies.flow_explorer import SamplerConfig

__all__ = ["METHOD"]


CAUTIOUS = PPOConfig(
    epochs=4,
    minibatches=1,
    learning_rate=2e-5,
    critic_learning_rate=2e-5,
    critic_warm_up=5,
    lam=0.95,
    entropy=0.0,
    normalise_advantages=False,
    max_grad_norm=0.5,
    target_kl=None,
    schedule="constant",
)
"""The paper's PPO: the critic alone first, advantages as they are, no entropy, no KL stop."""

METHOD = Method(
    name="vla-flare",
    what="PPO on a VLA with a second copy of it as critic, a small rate, no bonus and advantages as they are",
    paper="FLaRe, arXiv 2409.16578",
    policies="flow_vla, " + ", ".join(TOKENS),
    deviations=(
        "success is worth 1, not 10; the critic learns alone for five iterations, not 200,000 steps",
        "a frozen backbone stays frozen in policy and critic; the paper trains all of both",
    ),
    presets=(
        Preset(
            name="flow",
            kinds=("flow_vla",),
            source="FLaRe: rate 2e-5, gamma 0.99, lambda 0.95, one minibatch of four epochs, critic a copy that learns "
            "alone first; ours: clip 0.05 in place of 0.1, for densities are averaged",
            settings=VLAPPOSettings(
                critic="homogeneous-all",
                collect=CollectConfig(length=16, discount=0.99, scale_rewards=False),
                ppo=replace(CAUTIOUS, clip_low=0.05, clip_high=0.05, ratio="sum"),
            ),
        ),
        Preset(
            name="tokens",
            kinds=TOKENS,
            source="FLaRe: rate 2e-5, clip 0.1, gamma 0.99, lambda 0.95, one minibatch of four epochs, critic a copy "
            "that learns alone first",
            settings=VLAPPOSettings(
                sampler=SamplerConfig(temperature=1.0, ratio_per="action"),
                critic="homogeneous-all",
                collect=CollectConfig(length=16, discount=0.99, scale_rewards=False),
                ppo=replace(CAUTIOUS, clip_low=0.1, clip_high=0.1, ratio="per_link"),
            ),
        ),
    ),
)
