"""Flow-Noise: a learned noise at every step, in pi_RL's band (arXiv 2510.25889)."""

from __future__ import annotations

from toddle.core.config import config
from toddle.core.numbers import Positive, Size
from toddle.methods._base import Method, Run, Start
from toddle.methods._chunks import Denoiser
from toddle.methods._flows import FlowSettings, presets
from toddle.policies.links import FlowConfig

__all__ = ["METHOD", "FlowNoiseSettings"]


@config
class Flow(Denoiser):
    """The flow policy."""

    steps: Size = 4
    """K, integration steps."""
    std_range: tuple[Positive, Positive] = (0.08, 0.16)
    """Band of the learned standard deviation."""


@config
class FlowNoiseSettings(FlowSettings):
    """Flow policies by PPO, with a learned noise."""

    denoising: Flow = Flow()
    """The policy."""

    def build(self, start: Start) -> Run:
        """Build the policy and PPO."""
        process = FlowConfig(noise="flow_noise", steps=self.denoising.steps, std_range=self.denoising.std_range)
        return self.flow_run(start, self.denoising, process)


METHOD = Method(
    name="flow-noise",
    what="flow policies by PPO, with a learned noise in pi_RL's band",
    paper="pi_RL, arXiv 2510.25889",
    policies="denoising (flow)",
    shared=True,
    presets=presets(
        FlowNoiseSettings,
        Flow(),
        Flow(),
        (
            "pi_RL: K 4, std 0.08 to 0.16; clip and learning rate as reinflow's here",
            "pi_RL: std 0.08 to 0.16; clip as DPPO's from scratch",
        ),
    ),
)
