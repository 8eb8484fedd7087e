"""DiffusionVLA: a diffusion policy that sees, and reads a sentence: S1's warm start from pictures, and DPPO on it.

    tokens of the pictures and the sentence    of the frozen backbone, or of a ResNet that learns (models.resnet)
    FiLM from proprioception, one pooling of the tokens a learned query
    U-Net over the chunk (or an MLP: S1's ablation), conditioned on proprioception and what was pooled
Each denoising step is a Gaussian of `policies.links`, so the chain, its density and evaluation's DDIM with eta 0 are
those of `policies.denoising` (DPPO, arXiv 2409.00588; Diffusion Policy, arXiv 2303.04137; S1, III-B).
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Seed, Size
from toddle.core.seeding import randint, randn, seed_sequence
from toddle.core.types import BodySpec, Decision, FeatureSource, Observation, Score
from toddle.data.statistics import FeatureStatistics, Mode
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.models.denoisers import MlpDenoiserConfig, UnetConfig
from toddle.models.expert import make_adapter
from toddle.models.normalizer import RunningNorm
from toddle.models.resnet import ResNet, ResNetConfig, shifted
from toddle.policies.bounds import bounded
from toddle.policies.chain import draw_chain, link_density
from toddle.policies.denoising_network import ChunkConfig, DenoisingNetwork
from toddle.policies.flow_explorer import OF_FLOWS, OF_TOKENS, SamplerConfig, refuse_without_effect
from toddle.policies.links import DiffusionConfig, DiffusionLinks
from toddle.policies.one_body import OneBody, last_of, rows_of
from toddle.policies.seeing import SeeingPolicy

__all__ = ["DiffusionVLA", "DiffusionVLAConfig"]


@config
class DiffusionVLAConfig:
    """A diffusion policy that sees."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model that reads pictures and sentence."""
    body: BodySpec
    """The embodiment."""
    network: UnetConfig | MlpDenoiserConfig = UnetConfig()
    """What denoises."""
    process: DiffusionConfig = DiffusionConfig(ddim_steps=5)
    """How the chunk is drawn."""
    eyes: Literal["backbone", "resnet"] = "backbone"
    """What sees: the frozen backbone, which reads a sentence too, or a ResNet that learns from pictures alone."""
    resnet: ResNetConfig = ResNetConfig()
    """The ResNet."""
    width: Size = 64
    """Numbers of a token after the adapter."""
    queries: Size = 4
    """Poolings of the tokens."""
    horizon: Size = 8
    """H, actions of a chunk."""
    executed: Size = 8
    """Actions of a chunk that are executed in one decision."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures are read, in this order."""
    fingerprint: str = ""
    """Fingerprint of the backbone the policy was made with; filled in when it is built."""
    seed: Seed = 0
    """Seed of fresh weights."""

    def __post_init__(self) -> None:
        if self.executed > self.horizon:
            raise problem("executed", f"at most horizon {self.horizon}", self.executed)
        if self.process.tuned_steps:
            raise problem("process.tuned_steps", "0: every step learns", self.process.tuned_steps)


class DiffusionVLA(OneBody, SeeingPolicy):
    """A diffusion policy over what a backbone sees.  The chain is (B, (K + 1) H A): the chunk before and after each of
    the K steps.  Actions are normalised: a = (action - action_offset) / action_scale."""

    kind: ClassVar[str] = "diffusion_vla"

    def __init__(self, config: DiffusionVLAConfig, backbone: Backbone) -> None:
        """Build on a loaded backbone.  Raises InputError when its fingerprint is not the config's."""
        super().__init__(backbone, config.fingerprint, config.backbone.name)
        self.config = replace(config, fingerprint=self.fingerprint)
        self.horizon, self.bodies, self.cameras = config.executed, (config.body,), config.cameras
        self.norm = RunningNorm([config.body.proprio])
        chunk = ChunkConfig(body=config.body, horizon=config.horizon, executed=config.executed, network=config.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(config.seed, "diffusion vla").generate_state(1)[0]))
            self.eyes = ResNet(config.resnet) if config.eyes == "resnet" else None
            self.adapter = make_adapter(config.width, backbone.width if self.eyes is None else self.eyes.width)
            self.film = nn.Linear(config.body.proprio, 2 * config.width)
            self.look = nn.Linear(config.width, config.queries)
            features = config.body.proprio + config.queries * config.width
            self.network = DenoisingNetwork(chunk, config.process, features)
        self.links, self.sampler = DiffusionLinks(config.process), SamplerConfig()
        self.register_buffer("action_offset", torch.zeros(1, config.body.action))
        self.register_buffer("action_scale", torch.ones(1, config.body.action))
        self._share_lora()

    @classmethod
    def from_config(cls, config: DiffusionVLAConfig) -> DiffusionVLA:
        """Load the backbone the config names and build the policy with fresh weights."""
        return cls(config, load_backbone(config.backbone))

    # ---- what SFT asks ---------------------------------------------------------------------------------------------
    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations: actions by `mode`, proprioception (N, O) by mean and deviation, always anew."""
        self.norm.forget(0)
        self.norm.update(proprio.to(self.norm.mean.device))
        self._fit_actions(actions, mode)

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the predicted noise of demonstrated chunks; the batch is that of `FlowVLA.loss`.

        Returns the mean over real numbers and detached metrics.
        """
        error, weight, miss = self._errors(batch, generator)
        total = weight.sum().clamp(min=1)
        loss = error.sum() / total
        return loss, {"sft/loss": loss.item(), "sft/endpoint_error": (miss.sum() / total).item()}

    exact: ClassVar[bool] = False

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return the squared error (B,) of each demonstrated chunk's predicted noise, summed over its real numbers."""
        return self._errors(batch, generator)[0].flatten(1).sum(1)

    def _errors(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared errors (B, H, A), 0 where no number is real, which are, and the distances of the endpoints."""
        rows, mask = last_of(batch["observation"]), batch["mask"]
        if self.eyes is not None:
            rows["images"] = shifted(rows["images"], generator)
        action = (batch["action"] - self.action_offset) / self.action_scale
        noise = randn(action.shape, generator, action.device)
        steps = self.config.process.train_steps
        k = randint(steps, (len(action),), generator, action.device)
        keep = self.links.alpha_bar[k][:, None, None]
        noisy = keep.sqrt() * action + (1 - keep).sqrt() * noise
        said = self.network.predict(self._shared(rows), noisy[:, None], (k / steps)[:, None])[:, 0]
        weight = mask[..., None].expand_as(action).to(action.dtype)
        with torch.no_grad():
            end = ((noisy - (1 - keep).sqrt() * said) / keep.sqrt()).clamp(-1, 1)
            miss = (end - action).abs() * weight
        return (said - noise).square() * weight, weight, miss

    # ---- what it sees ----------------------------------------------------------------------------------------------
    @property
    def features(self) -> FeatureSource | None:
        """The frozen backbone; None where the eyes learn."""
        return super().features if self.eyes is None else None

    @property
    def context_width(self) -> int:
        """Numbers of a token that `encode` keeps: the frozen backbone's, or 0."""
        return super().context_width if self.eyes is None else 0

    def encode(self, observation: Observation) -> Observation:
        """Return the observation with the frozen backbone's features; as it is where the eyes learn."""
        return super().encode(observation) if self.eyes is None else observation

    def context(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return adapted tokens (M, G, d) and their mask, of observations (M, ...)."""
        if self.eyes is None:
            return super().context(observation)
        tokens = self.eyes(observation["images"])
        return self.adapter(tokens), torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def _pooled(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return normalised proprioception (M, O) and what is seen, pooled, (M, Q d), of observations (M, ...)."""
        tokens, mask = self.context(observation)
        proprio = self.norm(observation["proprio"])
        scale, shift = self.film(proprio)[:, None].chunk(2, -1)
        tokens = tokens * (1 + scale) + shift
        weight = self.look(tokens).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        return proprio, torch.einsum("mgq,mgd->mqd", weight, tokens).flatten(1)

    def _shared(self, observation: Observation) -> Any:
        """Return what all steps of a decision share, of observations (M, ...)."""
        return self.network.encode(observation, torch.cat(self._pooled(observation), -1), None)

    # ---- Policy ----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic`: no noise after the first draw (DDIM with eta 0)."""
        shared, own = self._shared(observation), self._counted(observation)
        noise = randn((len(own), *self._shape), generator, own.device)

        def link(step: int, x: Tensor, index: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
            said = self.network.predict(shared, x, self.links.times[index])
            return self.links.link(x, said, index, level, deterministic=deterministic)

        def density(y: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
            return self._density(y, mean, std, own)

        chunk, chain, log_prob = draw_chain(
            self.links, noise, None, link, density, generator, deterministic=deterministic
        )
        return Decision(self._executed(chunk), chain, log_prob), None

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, C): log_prob (T, B, K), entropy (T, B), the mean over steps and dimensions.

        The mean action is the last step's.
        """
        lead = chain.shape[:-1]
        rows = rows_of(observation, len(lead))
        states, index = self.links.unpack(chain.flatten(0, -2), self._shape)
        said = self.network.predict(self._shared(rows), states[:, :-1], self.links.times[index])
        mean, std = self.links.link(states[:, :-1], said, index, None)
        log_prob, entropy = self._density(states[:, 1:], mean, std, self._counted(rows))
        found = (log_prob, entropy, self._executed(mean[:, -1]))
        return Score(*(value.unflatten(0, lead) for value in found))

    @property
    def _shape(self) -> tuple[int, int]:
        return self.config.horizon, self.config.body.action

    def _executed(self, chunk: Tensor) -> Tensor:
        """Return the action (M, H_exec, A) in the environment's units of chunks (M, H, A)."""
        action = chunk[:, : self.horizon] * self.action_scale + self.action_offset
        return bounded(action, self.action_offset, self.action_scale)

    def _counted(self, observation: Observation) -> Tensor:
        """Return (M, H_exec, A) float, 1 for the numbers of a chunk that were executed, as far as that is known."""
        own = torch.ones(len(observation["proprio"]), self.horizon, self._shape[1], device=self.action_scale.device)
        if "executed" in observation:
            order = torch.arange(self.horizon, device=own.device)
            own = own * (order < observation["executed"][:, None])[..., None]
        return own

    def _density(self, y: Tensor, mean: Tensor, std: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-density (M, K) and entropy (M,) of chunks y (M, K, H, A), of what counts alone."""
        how = self.sampler
        std = self.links.log_prob_std(std)
        return link_density(y, mean, std, self.horizon, how.reduce, how.log_prob_bounds, own)

    # ---- what RL asks ----------------------------------------------------------------------------------------------
    def explorer(self, sampler: SamplerConfig) -> DiffusionVLA:
        """Return itself, which explores by its own steps.  Raises InputError for settings of other samplers."""
        of_others = [name for name in (*OF_FLOWS, *OF_TOKENS) if name not in ("reduce", "log_prob_bounds")]
        refuse_without_effect(sampler, of_others, "diffusion")
        self.sampler = sampler
        return self

    @property
    def prompt_width(self) -> int:
        """Numbers of `prompt_hidden`."""
        return self.config.queries * self.config.width

    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return what is seen, pooled, (..., Q d)."""
        lead = observation["proprio"].shape[:-1]
        return self._pooled(rows_of(observation, len(lead)))[1].unflatten(0, lead)
