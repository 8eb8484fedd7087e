"""What the methods of diffusion and flow policies share: the network, the chunk, and PPO around them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.experience.collect import CollectConfig
from toddle.methods._actors import bodies_of, check_continuous, has_goals, ppo_run, started_from
from toddle.methods._base import Run, Start
from toddle.methods._imitation import ImitationConfig, warm_start
from toddle.models.denoisers import MlpDenoiserConfig, UnetConfig
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.policies.denoising import DenoisingPolicy
from toddle.policies.fpo import FPOPolicy

__all__ = ["SCRATCH", "STARTED", "ChunkSettings", "Denoiser"]

SCRATCH: dict[str, Any] = {"epochs": 5, "minibatches": 8, "target_kl": None}
"""PPO's fields from scratch."""
STARTED: dict[str, Any] = {
    "epochs": 5,
    "minibatches": 8,
    "learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "critic_warm_up": 2,
    "target_kl": None,
    "schedule": "constant",
}
"""PPO's fields for a policy that has learned from demonstrations."""


@config
class Denoiser:
    """What denoises, and the chunk."""

    network: Literal["trunk", "mlp", "unet"] = "trunk"
    """What denoises; only a trunk can become the action expert of a VLA."""
    trunk: TrunkDenoiserConfig = TrunkDenoiserConfig()
    """Settings of the trunk."""
    mlp: MlpDenoiserConfig = MlpDenoiserConfig()
    """Settings of the multilayer perceptron."""
    unet: UnetConfig = UnetConfig()
    """Settings of the U-Net."""
    horizon: Size = 4
    """H, actions of a chunk."""
    executed: Size | None = None
    """Actions of a chunk that are executed; None: all."""


@config
class ChunkSettings:
    """A policy that denoises chunks, and PPO."""

    critic_hidden: tuple[Size, ...] = (256, 256)
    """Widths of the critic's hidden layers."""
    goal_width: Size = 64
    """Width of the pooled goal in the critic and in networks that are no trunk."""
    warm_start: Path | None = None
    """Dataset to imitate before RL; None starts from random weights."""
    imitation: ImitationConfig = ImitationConfig()
    """How it is imitated."""
    collect: CollectConfig = CollectConfig(length=16, discount=0.99)
    """How experience is gathered."""
    ppo: PPOConfig = PPOConfig()
    """The algorithm."""

    def shared(self, denoiser: Denoiser, start: Start) -> dict[str, Any]:
        """Return the fields of `policies.denoising_network.ChunkConfig`."""
        check_continuous(start.envs, "policies that denoise their actions")
        bodies, goals = bodies_of(start.envs), has_goals(start.envs)
        if len(bodies) > 1:
            raise problem("env", "one body with this method", ", ".join(body.name for body in bodies))
        networks: dict[str, TrunkDenoiserConfig | MlpDenoiserConfig | UnetConfig] = {
            "trunk": denoiser.trunk,
            "mlp": denoiser.mlp,
            "unet": denoiser.unet,
        }
        network = networks[denoiser.network]
        if network.contract is None:
            network = dataclasses.replace(network, contract=self.warm_start is None)
        if isinstance(network, TrunkDenoiserConfig) and not goals:
            network = dataclasses.replace(network, goal_dropout=0.0)
        return {
            "body": bodies[0],
            "horizon": denoiser.horizon,
            "executed": denoiser.executed or denoiser.horizon,
            "network": network,
            "goal_width": self.goal_width if goals else 0,
            "fixed_statistics": self.warm_start is not None,
            "seed": start.seed,
        }

    def run(self, start: Start, policy: DenoisingPolicy | FPOPolicy) -> Run:
        """Build PPO around a fresh policy, which imitates first where it is asked to, or around the stored one.

        Raises InputError where the stored one is of another kind, or draws its steps in another way.
        """
        if start.init is not None:
            if self.warm_start is not None:
                raise problem("warm_start", "nothing with --init", str(self.warm_start), "it has learned already")
            stored = started_from(start, (policy.kind,))
            if stored.process != policy.process:
                remedy = "go on with the method it was trained by"
                raise problem("init", f"a policy of steps drawn by {policy.process}", stored.process, remedy)
            policy = stored
        policy.to(start.device)
        if self.warm_start is not None:
            goals = has_goals(start.envs)
            warm_start(policy, self.warm_start, self.imitation, start, goals=goals)
        return ppo_run(
            start, policy, self.ppo, self.collect, critic_hidden=self.critic_hidden, goal_width=self.goal_width
        )
