"""A variational bottleneck from what a policy sees to what it does: the manifold that exploring stays on.

After SOE (Jin et al. 2025, arXiv 2509.19292; no code was to be had): p(z | o) = N(mu(o), sigma(o)^2), a decoder from z
to a chunk, and

    loss = |decode(z) - chunk|^2 in units of each number's deviation, mean  +  beta KL(p(z | o) || N(0, I))

Latent numbers whose mean varies less over the data than they are noisy say nothing and are left alone (`heard`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Seed, Size
from toddle.core.seeding import randint, randn, torch_generator
from toddle.maths.exploration import kl_from_normal, signal_to_noise
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["Bottleneck", "BottleneckConfig", "fit_bottleneck"]


@config
class BottleneckConfig:
    """Sizes of a bottleneck, and how it is trained."""

    latent: Size = 16
    """Latent numbers."""
    hidden: Size = 128
    """Hidden units of each of two layers, before and behind the latent numbers."""
    beta: NonNegative = 1e-3
    """Weight of the divergence from a standard normal; too much of it and the latent numbers say nothing."""
    updates: Count = 1500
    """Gradient steps."""
    batch: Size = 128
    """Rows in a step."""
    learning_rate: Positive = 1e-3
    """Adam's rate."""
    seed: Seed = 0
    """Seed of the weights and of what is drawn."""


class Bottleneck(nn.Module):
    """Encoder and decoder, with the statistics of states (N, D) and chunks (N, C)."""

    chunk: Tensor
    heard: Tensor

    def __init__(self, config: BottleneckConfig, state: int, chunk: int) -> None:
        """state, chunk: D and C, how many numbers."""
        super().__init__()
        self.config, self.norm = config, RunningNorm((state,))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = make_mlp([state, config.hidden, config.hidden, 2 * config.latent])
            self.decoder = make_mlp([config.latent, config.hidden, config.hidden, chunk])
        self.register_buffer("chunk", torch.stack([torch.zeros(chunk), torch.ones(chunk)]))  # mean and deviation
        self.register_buffer("heard", torch.ones(config.latent, dtype=torch.bool))

    def encode(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (N, Z) of the latent numbers of states (N, D)."""
        mean, log_std = self.encoder(self.norm(state)).chunk(2, -1)
        return mean, log_std.clamp(-7.0, 2.0).exp()

    def decode(self, latent: Tensor) -> Tensor:
        """Return chunks (N, C)."""
        found: Tensor = self.chunk[0] + self.chunk[1] * self.decoder(latent)
        return found

    def losses(self, state: Tensor, chunk: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the error of the chunks, and the divergence in nats, for noise (N, Z)."""
        mean, std = self.encode(state)
        moving = self.chunk[1] > 0
        error = (self.decode(mean + std * noise) - chunk)[:, moving] / self.chunk[1][moving]
        return error.square().mean(), kl_from_normal(mean, std).sum(-1).mean()


def fit_bottleneck(config: BottleneckConfig, state: Tensor, chunk: Tensor) -> tuple[Bottleneck, dict[str, float]]:
    """Train one on states (N, D) and chunks (N, C); return it, frozen, with its `error`, `nats` and numbers `heard`.

    The same rows and seed give the same weights.  Raises InputError where no latent number says anything.
    """
    made, draw = Bottleneck(config, state.shape[1], chunk.shape[1]), torch_generator(config.seed, "bottleneck")
    made.norm.update(state)
    deviation = chunk.std(0, correction=0)
    made.chunk.copy_(torch.stack([chunk.mean(0), torch.where(deviation > 1e-6, deviation, 0.0)]))
    optimiser = torch.optim.Adam(made.parameters(), lr=config.learning_rate)
    for _ in range(config.updates):
        rows = randint(len(state), (config.batch,), draw, CPU)
        error, nats = made.losses(state[rows], chunk[rows], randn((config.batch, config.latent), draw, CPU))
        optimiser.zero_grad(set_to_none=True)
        (error + config.beta * nats).backward()
        optimiser.step()
    made.eval().requires_grad_(False)
    mean, std = made.encode(state)
    made.heard.copy_(signal_to_noise(mean, std) > 1.0)
    error, nats = made.losses(state, chunk, randn(mean.shape, draw, CPU))
    heard = int(made.heard.sum())
    if not heard:
        raise problem("soe.bottleneck.beta", "a smaller weight: no latent number says anything of a state", config.beta)
    return made, {"error": float(error), "nats": float(nats), "heard": float(heard)}
