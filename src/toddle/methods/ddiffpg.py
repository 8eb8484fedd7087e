"""DDiffPG: multimodal behaviour from scratch by a diffusion policy gradient (Li et al. 2024, arXiv 2406.00681)."""

from __future__ import annotations

from typing import cast

from gymnasium import spaces

from toddle.algorithms.ddiffpg import DDiffPG, DDiffPGConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.protocols import Acting
from toddle.methods._actors import check_continuous
from toddle.methods._base import Method, Preset, Run, Start

__all__ = ["METHOD", "DDiffPGSettings"]


@config
class DDiffPGSettings:
    """Diffusion policy gradient with a critic per mode."""

    ddiffpg: DDiffPGConfig = DDiffPGConfig()
    """The algorithm."""

    def build(self, start: Start) -> Run:
        """Build it for the one environment, whose info must report `success`."""
        if len(start.envs) != 1:
            raise problem("env", "one environment with method ddiffpg", len(start.envs))
        if start.init is not None:
            raise problem("init", "nothing with method ddiffpg", "a policy", "it learns from scratch")
        if self.ddiffpg.actor != "diffusion":
            raise problem("ddiffpg.actor", "'diffusion' (the baseline is for benchmarks)", self.ddiffpg.actor)
        (env,) = start.envs
        check_continuous(start.envs, "method ddiffpg")
        if isinstance(env.single_observation_space, spaces.Dict):
            raise problem(
                "env", "one array of numbers to see, with method ddiffpg", ", ".join(env.single_observation_space)
            )
        learner = DDiffPG(env, self.ddiffpg, seed=start.seed, device=start.device)
        iterations = max(1, round(start.steps / (self.ddiffpg.steps * env.num_envs)))
        policy, show = cast(Acting, learner.actor.policy), ("episode/success",)
        return Run(
            learner=learner,
            policy=policy,
            iterations=iterations,
            sources=[learner],
            show=show,
            rehearse=learner.gather_first,
        )


METHOD = Method(
    name="ddiffpg",
    what="diffusion policy gradient with a critic per mode, off-policy",
    paper="Li et al. 2024, arXiv 2406.00681",
    policies="denoising (diffusion)",
    presets=(
        Preset(
            name="small",
            source="ours, for tasks of some thirty steps on a few CPU minutes; the paper's own: docs/denoising.md",
            settings=DDiffPGSettings(),
        ),
    ),
)
