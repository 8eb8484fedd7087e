"""The links of a denoising chain: from a network's prediction to the Gaussian of the next, less noisy chunk.

`DiffusionLinks` (epsilon prediction, cosine schedule, DDPM or DDIM) and `FlowLinks` (velocity prediction, tau = 0
noise) answer the same questions, so one policy serves both.  Index i counts steps of the sampler, noisiest first.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative, Positive, Share, Size, Whole
from toddle.core.seeding import randint, randn
from toddle.maths import diffusion
from toddle.maths.flow_sde import flow_ode_mean, flow_sde_link

__all__ = ["DiffusionConfig", "DiffusionLinks", "FlowConfig", "FlowLinks", "make_links"]


@config
class DiffusionConfig:
    """Variance-preserving diffusion (DPPO, arXiv 2409.00588): epsilon prediction on the cosine schedule."""

    kind: Literal["diffusion"] = "diffusion"
    """Names the process in files."""
    train_steps: Size = 20
    """K, steps of the schedule."""
    ddim_steps: Whole = 0
    """Steps a DDIM sampler visits; 0: DDPM through all K."""
    eta: Share = 1.0
    """DDIM's noise while learning (1 as DDPM, 0 none); evaluation always takes 0."""
    tuned_steps: Whole = 0
    """K', last steps that are fine-tuned and scored; the earlier ones keep a frozen copy.  0: all of them."""
    min_sampling_std: NonNegative = 0.1
    """Least standard deviation while exploring; at the last step it is all the exploration there is."""
    min_log_prob_std: Positive = 0.1
    """Least standard deviation in log-densities; at least `min_sampling_std`, else ratios are biased."""
    noise_clip: Positive = 3.0
    """Draws are held within this many standard deviations."""

    def __post_init__(self) -> None:
        if self.min_sampling_std > self.min_log_prob_std:
            least = f"at least {self.min_sampling_std} (min_sampling_std)"
            raise problem("min_log_prob_std", least, self.min_log_prob_std)
        if self.tuned_steps > self.steps:
            raise problem("tuned_steps", f"0 to {self.steps}, the sampler's steps", self.tuned_steps)
        if self.ddim_steps > self.train_steps:
            raise problem("ddim_steps", f"at most train_steps {self.train_steps}", self.ddim_steps)

    @property
    def name(self) -> str:
        """Names the kind of links."""
        return self.kind

    @property
    def steps(self) -> int:
        """Steps of the sampler."""
        return self.ddim_steps or self.train_steps

    @property
    def learned_std(self) -> bool:
        """Whether the spread is a network's output."""
        return False


@config
class FlowConfig:
    """Flow matching with a stochastic sampler (arXiv 2510.25889, 2505.22094)."""

    kind: Literal["flow"] = "flow"
    """Names the process in files."""
    steps: Size = 4
    """K, integration steps."""
    noise: Literal["reinflow", "flow_sde", "flow_noise"] = "reinflow"
    """Where the density comes from: a learned spread at every step (reinflow, flow_noise), or the SDE with the flow's
    marginals (flow_sde)."""
    one_random_step: bool = False
    """flow_sde: make one step drawn at random stochastic, the others ODE; only that one is scored."""
    level: Positive = 0.5
    """flow_sde: noise level a."""
    std_range: tuple[Positive, Positive] = (0.08, 0.16)
    """reinflow, flow_noise: band of the learned standard deviation."""

    def __post_init__(self) -> None:
        if self.one_random_step and self.noise != "flow_sde":
            raise problem("one_random_step", "noise 'flow_sde'", self.noise)
        if self.std_range[0] > self.std_range[1]:
            raise problem("std_range", "low <= high", f"{self.std_range}")

    @property
    def name(self) -> str:
        """Names the kind of links."""
        return self.noise

    @property
    def learned_std(self) -> bool:
        """Whether the spread is a network's output."""
        return self.noise in ("reinflow", "flow_noise")


class _Links(nn.Module):
    """What both kinds of links share: every tuned link is drawn and scored.  A module for its tables' sake."""

    tuned: Tensor

    def draw_single(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        """Return the one step (B, 1) that is stochastic in each decision; None where all are."""
        return None

    def spread_at(self, step: int, single: Tensor | None) -> Tensor | None:
        """Return the noise level (B, 1, 1, 1) of a step that is not the config's."""
        return None

    def pack(self, states: Tensor, log_prob: Tensor, single: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the chain (B, C) and log-densities of what is scored, of states (B, L + 1, H, A)."""
        return states.flatten(1), log_prob

    def unpack(self, chain: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return states (M, L + 1, H, A) and the links' steps (L,) or (M, L) of chains (M, C)."""
        return chain.unflatten(1, (-1, *shape)), self.tuned


class DiffusionLinks(_Links):
    """DDPM or DDIM steps as Gaussians."""

    alpha_bar: Tensor
    now: Tensor
    after: Tensor
    times: Tensor
    tuned: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, self.steps = config, config.steps
        alpha_bar = diffusion.cosine_alpha_bar(config.train_steps, dtype=torch.float32)
        visited = torch.tensor(diffusion.ddim_steps(config.train_steps, config.steps))
        now = alpha_bar[visited]
        tables = {
            "alpha_bar": alpha_bar,
            "now": now,
            "after": torch.cat([now[1:], torch.ones(1)]),
            "times": visited / config.train_steps,
            "tuned": torch.arange(self.steps - (config.tuned_steps or self.steps), self.steps),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def link(
        self, x: Tensor, prediction: Tensor, index: Tensor, spread: Tensor | None, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return mean (..., L, H, A) and the schedule's standard deviation, broadcastable, of the next chunk.

        x, prediction (..., L, H, A); index (L,) or (..., L); `spread` is not used.
        """
        now, after = (table[index][..., None, None] for table in (self.now, self.after))
        x0 = diffusion.eps_to_x0(x, prediction, now)
        if self.config.ddim_steps:
            return diffusion.ddim_link(x, x0, now, after, 0.0 if deterministic else self.config.eta)
        return diffusion.ddpm_link(x, x0, now, after)

    def ode(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Return the next chunk without noise: DDIM with eta 0, whatever the sampler's own noise."""
        now, after = self.now[step], self.after[step]
        return diffusion.ddim_link(x, diffusion.eps_to_x0(x, prediction, now), now, after, 0.0)[0]

    def draw(self, mean: Tensor, std: Tensor, last: bool, generator: torch.Generator | None, greedy: bool) -> Tensor:
        """Draw the next chunk; `last` says whether this is the last step."""
        if greedy and (last or self.config.ddim_steps):
            return mean
        noise = randn(mean.shape, generator, mean.device)
        std = std if greedy else std.clamp(min=self.config.min_sampling_std)
        return mean + std * noise.clamp_(-self.config.noise_clip, self.config.noise_clip)

    def log_prob_std(self, std: Tensor) -> Tensor:
        """Return the spread used in log-densities."""
        return std.clamp(min=self.config.min_log_prob_std)


class FlowLinks(_Links):
    """Integration steps i / K -> (i + 1) / K as Gaussians: the same grid when drawing and when scoring."""

    times: Tensor
    tuned: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config, self.steps = config, config.steps
        self.register_buffer("times", torch.arange(config.steps) / config.steps, persistent=False)
        self.register_buffer("tuned", torch.arange(config.steps), persistent=False)

    def link(
        self, x: Tensor, prediction: Tensor, index: Tensor, spread: Tensor | None, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return mean (..., L, H, A) and standard deviation, broadcastable, of the next chunk.

        `spread`: the learned standard deviation (reinflow, flow_noise), or the noise level where it is not the
        config's (flow_sde; 0 makes a step of the ODE).
        """
        step = 1.0 / self.steps
        if deterministic:
            return flow_ode_mean(x, prediction, step), torch.zeros((), device=x.device)
        if self.config.noise == "flow_sde":
            tau = self.times[index][..., None, None]
            return flow_sde_link(x, prediction, tau, step, self.config.level if spread is None else spread)
        assert spread is not None
        return flow_ode_mean(x, prediction, step), spread

    def ode(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Return the next chunk without noise."""
        return flow_ode_mean(x, prediction, 1.0 / self.steps)

    def draw(self, mean: Tensor, std: Tensor, last: bool, generator: torch.Generator | None, greedy: bool) -> Tensor:
        """Draw the next chunk."""
        if greedy:
            return mean
        return mean + std * randn(mean.shape, generator, mean.device)

    def log_prob_std(self, std: Tensor) -> Tensor:
        """Return the spread used in log-densities."""
        return std

    def draw_single(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        """Return the one step (B, 1) that is stochastic in each decision; None where all are."""
        return randint(self.steps, (batch, 1), generator, device) if self.config.one_random_step else None

    def spread_at(self, step: int, single: Tensor | None) -> Tensor | None:
        """Return the noise level (B, 1, 1, 1) of a step: 0 where it is not the decision's stochastic one."""
        return None if single is None else self.config.level * (single == step)[..., None, None]

    def pack(self, states: Tensor, log_prob: Tensor, single: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the whole chain, or x before and after the stochastic step, and the step's index."""
        if single is None:
            return super().pack(states, log_prob, single)
        flat = states.flatten(2)
        pair = torch.stack([single, single + 1], 1).expand(-1, 2, flat.shape[-1])
        chain = torch.cat([flat.gather(1, pair).flatten(1), single.to(flat.dtype)], 1)
        return chain, log_prob.gather(1, single)

    def unpack(self, chain: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Undo `pack`."""
        if not self.config.one_random_step:
            return super().unpack(chain, shape)
        states, _ = super().unpack(chain[:, :-1], shape)
        return states, chain[:, -1:].long()


def make_links(config: DiffusionConfig | FlowConfig) -> DiffusionLinks | FlowLinks:
    """Build the links of a process."""
    return DiffusionLinks(config) if isinstance(config, DiffusionConfig) else FlowLinks(config)
