"""PPO on a VLA: the critic sees what its frozen backbone says (pi_RL, Chen et al. 2025, arXiv 2510.25889)."""

from __future__ import annotations

from toddle.algorithms.ppo import PPOConfig
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Method, Preset
from toddle.methods._vla import DIFFUSIONS, FLOWS, TOKENS, VLAPPOSettings
from toddle.policies.flow_explorer import SamplerConfig

__all__ = ["METHOD"]

METHOD = Method(
    name="vla-ppo",
    what="PPO on a VLA, with a critic of its own that sees the frozen backbone's context",
    paper="flows: pi_RL, arXiv 2510.25889; diffusions: DPPO, arXiv 2409.00588; tokens: VLA-RL, arXiv 2505.18719",
    policies=", ".join((*FLOWS, *DIFFUSIONS, *TOKENS)),
    deviations=(
        "the critic shares no layer with the expert: it sees the simulator's state, or pools the frozen context itself",
        "densities of a link are averaged over its dimensions, and the clip range is small for that reason",
    ),
    shared=True,
    presets=(
        Preset(
            name="flow",
            kinds=FLOWS,
            source="pi_RL: K 4, level 0.5, one random step, lambda 0.95, critic first; ours: own successes imitated "
            "beside (without them this rate loses a policy: preset pi-rl), rate, epochs, gamma, clip",
            common={"imitation": {"weight": 1.0}},
            settings=VLAPPOSettings(
                collect=CollectConfig(length=25, discount=0.995, scale_rewards=False),
                ppo=PPOConfig(
                    epochs=5,
                    minibatches=8,
                    learning_rate=1e-4,
                    critic_learning_rate=1e-3,
                    critic_warm_up=1,
                    clip_low=0.05,
                    clip_high=0.05,
                    ratio="sum",
                    target_kl=None,
                    schedule="cosine",
                ),
            ),
        ),
        Preset(
            name="pi-rl",
            kinds=FLOWS,
            source="pi_RL: K 4, level 0.5, one random step, lambda 0.95, rate 5e-6, critic first; ours: gamma, clip",
            settings=VLAPPOSettings(
                collect=CollectConfig(length=25, discount=0.995, scale_rewards=False),
                ppo=PPOConfig(
                    epochs=3,
                    minibatches=4,
                    learning_rate=5e-6,
                    critic_learning_rate=1e-3,
                    critic_warm_up=2,
                    clip_low=0.05,
                    clip_high=0.05,
                    ratio="sum",
                    target_kl=None,
                    schedule="constant",
                ),
            ),
        ),
        Preset(
            name="diffusion",
            kinds=DIFFUSIONS,
            source="DPPO: a ratio a denoising step, link discount 0.99, a clip that grows over the steps; ours: the "
            "clip that dppo has after imitation, a rate between its own and the paper's 1e-5 for pictures",
            settings=VLAPPOSettings(
                collect=CollectConfig(length=25, discount=0.995),
                ppo=PPOConfig(
                    epochs=5,
                    minibatches=8,
                    learning_rate=1e-4,
                    critic_learning_rate=1e-3,
                    critic_warm_up=2,
                    ratio="per_link",
                    clip_low=0.05,
                    clip_high=0.05,
                    link_clip_first=0.005,
                    link_discount=0.99,
                    target_kl=None,
                    schedule="cosine",
                ),
            ),
        ),
        Preset(
            name="tokens",
            kinds=("token_vla", "fast_vla"),
            source="VLA-RL: a ratio for each action's tokens, clip 0.2, critic first; ours: own successes imitated "
            "beside, and what preset flow has: rate, epochs, no KL stop, which imitation would set off",
            common={"imitation": {"weight": 1.0}},
            settings=VLAPPOSettings(
                sampler=SamplerConfig(temperature=1.0, ratio_per="action"),
                collect=CollectConfig(length=25, discount=0.98),
                ppo=PPOConfig(
                    epochs=5,
                    minibatches=8,
                    learning_rate=1e-4,
                    critic_learning_rate=1e-3,
                    critic_warm_up=2,
                    ratio="per_link",
                    target_kl=None,
                    schedule="cosine",
                ),
            ),
        ),
        Preset(
            name="tokens-alone",
            kinds=TOKENS,
            source="VLA-RL: a ratio for each action's tokens, clip 0.2, critic first; ours, found on dots/one: a rate "
            "that the KL steers, epochs, discount",
            settings=VLAPPOSettings(
                sampler=SamplerConfig(temperature=1.0, ratio_per="action"),
                collect=CollectConfig(length=25, discount=0.98),
                ppo=PPOConfig(
                    epochs=4,
                    minibatches=4,
                    learning_rate=1e-4,
                    critic_learning_rate=1e-3,
                    critic_warm_up=2,
                    ratio="per_link",
                    target_kl=0.03,
                    schedule="adaptive",
                ),
            ),
        ),
        Preset(
            name="vla-rl",
            kinds=TOKENS,
            source="VLA-RL as published: temperature 1.5, one epoch, advantages as they are, value clip 0.2, rate 2e-5 "
            "(critic 5e-5), five iterations of the critic alone, which reads a frozen copy of the VLA; 128 steps by 8",
            settings=VLAPPOSettings(
                sampler=SamplerConfig(temperature=1.5, ratio_per="action"),
                critic="homogeneous",
                collect=CollectConfig(length=16, discount=0.99, scale_rewards=False),
                ppo=PPOConfig(
                    epochs=1,
                    minibatches=8,
                    learning_rate=2e-5,
                    critic_learning_rate=5e-5,
                    critic_warm_up=5,
                    ratio="per_link",
                    value_clip=0.2,
                    normalise_advantages=False,
                    max_grad_norm=1.0,
                    target_kl=None,
                    schedule="constant",
                    rescore=True,
                ),
            ),
        ),
    ),
)
