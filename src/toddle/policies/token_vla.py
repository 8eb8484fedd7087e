"""TokenVLA: a VLA that says its chunk token by token (OpenVLA, arXiv 2406.09246), or all at once (OFT, 2502.19645).

    backbone(images, sentence) -> context   frozen: stands outside the policy's weights
    decoder: [proprioception | tokens said] read the context -> logits of the next token's 256 bins
What is said, drawn and scored is the part of `policies.speaking`.  `decoding` parallel with head laplace is OFT's head:
the L1 loss's mean, and a spread so that it has a density (RIPT-VLA, arXiv 2505.17016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Seed, Size
from toddle.core.seeding import rand, seed_sequence
from toddle.core.types import BodySpec, Observation
from toddle.data.statistics import FeatureStatistics, Mode
from toddle.maths.action_tokens import bin_centres, to_tokens
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.models.expert import make_adapter
from toddle.models.normalizer import RunningNorm
from toddle.models.token_decoder import DecoderConfig, TokenDecoder
from toddle.policies.one_body import rows_of
from toddle.policies.seeing import SeeingPolicy
from toddle.policies.speaking import LOG_SCALE, Speaking

__all__ = ["TokenVLA", "TokenVLAConfig"]


@config
class TokenVLAConfig:
    """A VLA of tokens."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model that reads pictures and sentence."""
    body: BodySpec
    """The embodiment."""
    decoder: DecoderConfig = DecoderConfig()
    """The decoder."""
    horizon: Size = 8
    """H, actions of a chunk in training."""
    executed: Size = 8
    """Actions that are said and executed in one decision."""
    bins: Size = 256
    """Tokens of a number."""
    decoding: Literal["autoregressive", "parallel"] = "autoregressive"
    """One by one, each given those before; or all at once."""
    head: Literal["tokens", "laplace"] = "tokens"
    """Bins, or with parallel decoding a mean and a spread."""
    thought: bool = False
    """Say first, as one action that is not executed, what the whole chunk comes to: the mean of its H actions."""
    thinks: Literal["said", "random", "silent"] = "said"
    """What stands in the thought's place when it acts: what it says; the controls: any tokens, or the middle ones."""
    temperature: Positive = 1.0
    """Logits are divided by it (the Laplace head's scale is multiplied), when drawing and when scoring alike."""
    ratio_per: Literal["token", "action", "chunk"] = "action"
    """What one log-density is of: a token, the tokens of one action, or all of a decision."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures the backbone reads, in this order."""
    fingerprint: str = ""
    """Fingerprint of the backbone the policy was made with; filled in when it is built."""
    seed: Seed = 0
    """Seed of fresh weights."""

    def __post_init__(self) -> None:
        if self.executed > self.horizon:
            raise problem("executed", f"at most horizon {self.horizon}", self.executed)
        if self.head == "laplace" and self.decoding != "parallel":
            raise problem("head", "tokens, or decoding parallel", self.head)
        if self.thought and self.decoding == "parallel":
            raise problem("thought", "false with decoding parallel: a thought stands before what follows it", True)
        if self.bins < 2:
            raise problem("bins", "at least 2", self.bins)


class TokenVLA(Speaking, SeeingPolicy):
    """A VLA whose decision is a sequence of tokens.  The chain is (B, L): the tokens, or the Laplace head's draws."""

    kind: ClassVar[str] = "token_vla"

    def __init__(self, config: TokenVLAConfig, backbone: Backbone) -> None:
        """Build on a loaded backbone.  Raises InputError when its fingerprint is not the config's."""
        super().__init__(backbone, config.fingerprint, config.backbone.name)
        self.config = replace(config, fingerprint=self.fingerprint)
        self.horizon, self.bodies, self.cameras = config.executed, (config.body,), config.cameras
        self.norm = RunningNorm([config.body.proprio])
        width, outputs = config.decoder.width, config.bins if config.head == "tokens" else 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(config.seed, "token vla").generate_state(1)[0]))
            self.adapter = make_adapter(config.decoder.context_width, backbone.width)
            self.start = nn.Linear(config.body.proprio, width)
            length = (config.horizon + int(config.thought)) * config.body.action
            self.decoder = TokenDecoder(config.decoder, length, config.bins)
            self.out = nn.Linear(width, outputs)
        self.register_buffer("action_offset", torch.zeros(1, config.body.action))
        self.register_buffer("action_scale", torch.ones(1, config.body.action))
        self.register_buffer("centres", bin_centres(config.bins), persistent=False)
        self._share_lora()

    @classmethod
    def from_config(cls, config: TokenVLAConfig) -> TokenVLA:
        """Load the backbone the config names and build the policy with fresh weights."""
        return cls(config, load_backbone(config.backbone))

    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations: actions by `mode`, proprioception (N, O) by mean and deviation, always anew."""
        self.norm.forget(0)
        self.norm.update(proprio.to(self.norm.mean.device))
        self._fit_actions(actions, mode)

    @property
    def _thoughts(self) -> int:
        return int(self.config.thought)

    def _thought(self, token: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.config.thinks == "said":
            return token
        if self.config.thinks == "silent":
            return torch.full_like(token, self.config.bins // 2)
        return (rand(token.shape, generator, token.device) * self.config.bins).long().clamp(max=self.config.bins - 1)

    # ---- what it says (policies.speaking) --------------------------------------------------------------------------
    def _begun(self, observation: Observation) -> tuple[Tensor, Any]:
        """Return the start token (N, d) and the opened context of observations (N, ...)."""
        context, mask = self.context(observation)
        return self.start(self.norm(observation["proprio"])), self.decoder.open(context, mask)

    def _hidden(self, observation: Observation, length: int, tokens: Tensor | None) -> Tensor:
        start, said = self._begun(observation)
        if self.config.decoding == "parallel" or tokens is None:
            return self.decoder.together(start, length, said)
        return self.decoder.forced(start, tokens, said)

    def _one_by_one(self, observation: Observation) -> Callable[[Tensor | None], Tensor]:
        start, said = self._begun(observation)
        return lambda token: self.decoder.next(start if token is None else self.decoder.words(token), said)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(hidden)
        return logits

    def _laplace(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.out(hidden).unbind(-1)
        return mean, log_scale.clamp(*LOG_SCALE)

    def _bins(self, action: Tensor) -> Tensor:
        return to_tokens(action, self.config.bins)

    # ---- what a homogeneous critic asks ----------------------------------------------------------------------------
    @property
    def prompt_width(self) -> int:
        """Numbers of `prompt_hidden`."""
        return self.config.decoder.width

    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return the decoder's output (..., d) at the start token, before anything is said."""
        lead = observation["proprio"].shape[:-1]
        start, said = self._begun(rows_of(observation, len(lead)))
        parallel = self.config.decoding == "parallel"
        return self.decoder.prompt(start, said, self._length if parallel else 0).unflatten(0, lead)
