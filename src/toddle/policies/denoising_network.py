"""The network of a policy that denoises chunks, with a head for the spread where it is learned, and its settings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Seed, Size, SizeOrNone
from toddle.core.types import BodySpec, Observation
from toddle.maths.diffusion import cosine_alpha_bar, ddim_steps, flow_time
from toddle.maths.flow_sde import squashed_std
from toddle.models.denoisers import TIME_FEATURES, MlpDenoiser, MlpDenoiserConfig, Unet, UnetConfig, time_features
from toddle.models.denoising_trunk import TrunkDenoiser, TrunkDenoiserConfig
from toddle.models.mlp import make_mlp
from toddle.policies.links import DiffusionConfig, FlowConfig

__all__ = ["ChunkConfig", "DenoisingNetwork", "rows_of"]


@config
class ChunkConfig:
    """What every policy shares that draws a chunk from noise."""

    body: BodySpec
    """The embodiment."""
    horizon: Size = 4
    """H, actions of a chunk."""
    executed: Size = 4
    """H_exec, actions of a chunk that are executed; the log-density is theirs alone."""
    network: MlpDenoiserConfig | UnetConfig | TrunkDenoiserConfig = MlpDenoiserConfig()
    """What predicts noise (diffusion) or velocity (flow).  A trunk can become a VLA's action expert."""
    goal_width: SizeOrNone = 0
    """Width of the pooled goal; 0 for environments without goals."""
    goal_parts: Size = 256
    """Controlled parts a goal item can name."""
    fixed_statistics: bool = False
    """Keep the normalisation that imitation set: a warm-started (and a frozen) network knows no other."""
    condition: SizeOrNone = 0
    """Numbers of `observation["condition"]` to condition on (DDiffPG's mode embedding)."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if not 1 <= self.executed <= self.horizon:
            raise problem("executed", f"1 to horizon {self.horizon}", self.executed)
        if self.condition and isinstance(self.network, TrunkDenoiserConfig):
            raise problem("condition", "0 with a trunk (it reads goals)", self.condition)

    @property
    def goal_dropout(self) -> float:
        """Share of decisions with the goal hidden (a trunk's)."""
        return self.network.goal_dropout if isinstance(self.network, TrunkDenoiserConfig) else 0.0


class DenoisingNetwork(nn.Module):
    """Denoiser, and the head of a learned standard deviation where the process has one."""

    taus: Tensor
    scales: Tensor

    def __init__(self, config: ChunkConfig, process: DiffusionConfig | FlowConfig, features: int) -> None:
        super().__init__()
        shape = (config.horizon, config.body.action)
        net = config.network
        self.denoiser: MlpDenoiser | Unet | TrunkDenoiser
        if isinstance(net, MlpDenoiserConfig):
            self.denoiser = MlpDenoiser(net, features, *shape)
        elif isinstance(net, UnetConfig):
            self.denoiser = Unet(net, features, *shape)
        else:
            self.denoiser = self._trunk(config, process, net)
        # Noise predicted as x itself leaves a clean chunk of about 0 as long as x is mostly noise.  (A trunk's is the
        # expert's, where x comes in flow form: `maths.flow.contracting`.)
        share = 1.0 if isinstance(process, DiffusionConfig) else -1.0
        self.share = share if net.contract and not isinstance(net, TrunkDenoiserConfig) else 0.0
        self.shape, self.spread = shape, None
        if process.learned_std:
            self.spread = make_mlp([features + TIME_FEATURES, 64, 64, math.prod(shape)], "tanh")
            assert isinstance(process, FlowConfig)
            self.band = process.std_range

    def _trunk(
        self, config: ChunkConfig, process: DiffusionConfig | FlowConfig, net: TrunkDenoiserConfig
    ) -> TrunkDenoiser:
        """Build the action expert; a diffusion's steps become flow times (docs/denoising.md), any step of them."""
        times = tuple[float, ...]()
        if isinstance(process, DiffusionConfig):
            taus, scales = flow_time(cosine_alpha_bar(process.train_steps))
            self.register_buffer("taus", taus.float(), persistent=False)
            self.register_buffer("scales", scales.float(), persistent=False)
            times = tuple(taus[ddim_steps(process.train_steps, process.steps)].tolist())
        return TrunkDenoiser(
            net,
            config.body,
            config.horizon,
            config.executed,
            head="noise" if times else "velocity",
            times=times,
            goal_parts=config.goal_parts,
        )

    def encode(self, observation: Observation, features: Tensor, dropped: Tensor | None) -> Any:
        """Return what all links of a decision share, of observations and features (M, ...)."""
        if isinstance(self.denoiser, TrunkDenoiser):
            return self.denoiser.encode(observation, dropped)
        return self.denoiser.encode(features)

    def predict(self, shared: Any, x: Tensor, time: Tensor) -> Tensor:
        """Predict noise or velocity for chunks x (M, L, H, A) at link times (L,) or (M, L)."""
        if isinstance(self.denoiser, TrunkDenoiser) and self.denoiser.expert.config.head == "noise":
            step = (time * len(self.taus)).round().long()
            x, time = x / self.scales[step][..., None, None], self.taus[step]
        out = self.denoiser(shared, x, time)
        return torch.add(out, x, alpha=self.share) if self.share else out

    def std(self, features: Tensor, time: Tensor, links: int) -> Tensor | None:
        """Return the learned standard deviation (M, L, H, A), or None."""
        if self.spread is None:
            return None
        lead = (len(features), links)
        inputs = torch.cat([features[:, None].expand(*lead, -1), time_features(time).expand(*lead, -1)], -1)
        return squashed_std(self.spread(inputs), *self.band).unflatten(-1, self.shape)


def rows_of(observation: Observation) -> Observation:
    """Return observations (M, ...) of (T, B, ...) or (M, ...): what a trunk reads, one row a decision."""
    lead = observation["proprio"].dim() - 1
    keys = [key for key in ("proprio", "goal", "goal_mask") if key in observation]
    return {key: observation[key].flatten(0, lead - 1) for key in keys}  # type: ignore[return-value]
