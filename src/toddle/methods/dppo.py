"""DPPO: diffusion policies by PPO over the denoising chain (Ren et al. 2024, arXiv 2409.00588)."""

from __future__ import annotations

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.numbers import Positive, Size, Whole
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._chunks import SCRATCH, STARTED, ChunkSettings, Denoiser
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.links import DiffusionConfig

__all__ = ["METHOD", "DPPOSettings"]


@config
class Diffusion(Denoiser):
    """The diffusion policy."""

    steps: Size = 10
    """K, denoising steps of the schedule."""
    ddim_steps: Whole = 0
    """Steps that a DDIM sampler visits; 0: DDPM."""
    tuned_steps: Whole = 0
    """K', last steps that are trained by RL; the earlier ones keep what imitation made.  0: all."""
    std: Positive = 0.2
    """Least standard deviation while exploring and in log-densities."""


@config
class DPPOSettings(ChunkSettings):
    """Diffusion policies by PPO."""

    denoising: Diffusion = Diffusion()
    """The policy."""

    def build(self, start: Start) -> Run:
        """Build the policy, and PPO with a ratio for each link."""
        chosen = self.denoising
        process = DiffusionConfig(
            train_steps=chosen.steps,
            ddim_steps=chosen.ddim_steps,
            tuned_steps=chosen.tuned_steps,
            min_sampling_std=chosen.std,
            min_log_prob_std=chosen.std,
        )
        policy = DenoisingPolicy(DenoisingConfig(**self.shared(chosen, start), process=process))
        return self.run(start, policy)


PER_LINK = PPOConfig(**SCRATCH, ratio="per_link", clip_low=0.1, clip_high=0.1)
METHOD = Method(
    name="dppo",
    what="diffusion policies by PPO, a ratio for each denoising step",
    paper="Ren et al. 2024, arXiv 2409.00588",
    policies="denoising (diffusion)",
    shared=True,
    presets=(
        Preset(
            name="started",
            source="DPPO, robomimic state: K 20, K' 10, link discount 0.99, gamma 0.999; ours: clip 0.005 to 0.05, "
            "learning rate 3e-4",
            settings=DPPOSettings(
                denoising=Diffusion(steps=20, tuned_steps=10, std=0.1),
                collect=CollectConfig(length=16, discount=0.999),
                ppo=PPOConfig(
                    **STARTED
                    | {
                        "ratio": "per_link",
                        "clip_low": 0.05,
                        "clip_high": 0.05,
                        "link_clip_first": 0.005,
                        "link_discount": 0.99,
                        "learning_rate": 3e-4,
                    }
                ),
            ),
            started=True,
        ),
        Preset(
            name="goals",
            source="DPPO, from scratch, with goal tracking's gamma",
            settings=DPPOSettings(ppo=PER_LINK, collect=CollectConfig(length=16, discount=0.95)),
            families=("goal",),
        ),
        Preset(
            name="scratch",
            source="DPPO, from scratch: K = K' = 10, clip 0.1, no link discount; ours: least standard deviation 0.2",
            settings=DPPOSettings(ppo=PER_LINK),
        ),
    ),
)
