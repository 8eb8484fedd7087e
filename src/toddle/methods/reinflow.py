"""ReinFlow: a flow with a learned noise at every step (Zhang et al. 2025, arXiv 2505.22094)."""

from __future__ import annotations

from toddle.core.config import config
from toddle.core.numbers import Positive, Size
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._chunks import Denoiser
from toddle.methods._flows import FlowSettings, presets
from toddle.methods.ppo import GOALS
from toddle.policies.links import FlowConfig

__all__ = ["METHOD", "ReinFlowSettings"]


@config
class Flow(Denoiser):
    """The flow policy."""

    steps: Size = 4
    """K, integration steps."""
    std_range: tuple[Positive, Positive] = (0.1, 0.24)
    """Band of the learned standard deviation."""


@config
class ReinFlowSettings(FlowSettings):
    """Flow policies by PPO, with a learned noise."""

    denoising: Flow = Flow()
    """The policy."""

    def build(self, start: Start) -> Run:
        """Build the policy and PPO."""
        process = FlowConfig(noise="reinflow", steps=self.denoising.steps, std_range=self.denoising.std_range)
        return self.flow_run(start, self.denoising, process)


_SOURCES = (
    "ReinFlow: K 4, std 0.1 to 0.24, critic's learning rate 6.5e-4, gamma 0.99; ours: clip 0.05, learning rate 2e-4",
    "ReinFlow; clip as DPPO's from scratch",
)
_STARTED, _, _SCRATCH = presets(ReinFlowSettings, Flow(), Flow(), _SOURCES, critic_learning_rate=6.5e-4)
METHOD = Method(
    name="reinflow",
    what="flow policies by PPO, with a learned noise at every step",
    paper="Zhang et al. 2025, arXiv 2505.22094",
    policies="denoising (flow)",
    shared=True,
    presets=(
        _STARTED,
        Preset(
            name="goals",
            source="ours: densities summed, and PPO as for the causal transformer",
            settings=ReinFlowSettings(reduce="sum", ppo=GOALS, collect=CollectConfig(length=16, discount=0.95)),
            families=("goal",),
        ),
        _SCRATCH,
    ),
)
