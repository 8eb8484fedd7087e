"""Flow-SDE: the stochastic sampler with the flow's marginals (pi_RL, Chen et al. 2025, arXiv 2510.25889)."""

from __future__ import annotations

from toddle.core.config import config
from toddle.core.numbers import Positive, Size
from toddle.methods._base import Method, Run, Start
from toddle.methods._chunks import Denoiser
from toddle.methods._flows import FlowSettings, presets
from toddle.policies.links import FlowConfig

__all__ = ["METHOD", "FlowSDESettings"]


@config
class Flow(Denoiser):
    """The flow policy."""

    steps: Size = 4
    """K, integration steps."""
    level: Positive = 0.5
    """Noise level a."""
    one_random_step: bool = False
    """One step drawn at random is stochastic, the others are not; only that one is scored."""


@config
class FlowSDESettings(FlowSettings):
    """Flow policies by PPO, as an SDE with the flow's marginals."""

    denoising: Flow = Flow()
    """The policy."""

    def build(self, start: Start) -> Run:
        """Build the policy and PPO."""
        chosen = self.denoising
        process = FlowConfig(
            noise="flow_sde", steps=chosen.steps, level=chosen.level, one_random_step=chosen.one_random_step
        )
        return self.flow_run(start, chosen, process)


METHOD = Method(
    name="flow-sde",
    what="flow policies by PPO, sampled by an SDE with the flow's marginals",
    paper="pi_RL, arXiv 2510.25889",
    policies="denoising (flow)",
    shared=True,
    presets=presets(
        FlowSDESettings,
        Flow(),
        Flow(one_random_step=True),
        (
            "pi_RL: K 4, level 0.5, one random step; clip (densities are averaged), learning rate as reinflow's here",
            "pi_RL: K 4, level 0.5; clip as DPPO's from scratch",
        ),
        ratio="sum",
    ),
)
