"""TokenVLA: a VLA that says its chunk token by token (OpenVLA, arXiv 2406.09246), or all at once (OFT, 2502.19645).

    backbone(images, sentence) -> context   frozen: stands outside the policy's weights
    decoder: [proprioception | tokens said] read the context -> logits of the next token's 256 bins
L = H_exec A tokens a decision.  Only the bins are in the vocabulary, so no other token can be drawn or scored; the
temperature is one number that acting and scoring share.  Evaluation takes the likeliest token of each.
`decoding` parallel with head laplace is OFT's continuous head: the L1 loss's mean, and a spread so that it has a
density (RIPT-VLA, arXiv 2505.17016).
"""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Seed, Size
from toddle.core.seeding import rand, seed_sequence
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.data.statistics import FeatureStatistics, Mode, Normalization
from toddle.maths.action_tokens import bin_centres, to_tokens
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.models.expert import make_adapter
from toddle.models.normalizer import RunningNorm
from toddle.models.token_decoder import DecoderConfig, TokenDecoder
from toddle.policies.bounds import bounded
from toddle.policies.flow_explorer import OF_FLOWS, SamplerConfig, refuse_without_effect
from toddle.policies.seeing import SeeingPolicy

__all__ = ["TokenVLA", "TokenVLAConfig"]

LOG_SCALE = (-4.0, 0.5)
"""Bounds of the Laplace head's log-scale, in normalised actions."""


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
        if self.bins < 2:
            raise problem("bins", "at least 2", self.bins)


class TokenVLA(SeeingPolicy):
    """A VLA whose decision is a sequence of tokens.  The chain is (B, L): the tokens, or the Laplace head's draws.

    Actions are normalised: a = (action - action_offset) / action_scale, and then held within [-1, 1] by the bins.
    """

    kind: ClassVar[str] = "token_vla"
    sequential = False
    action_offset: Tensor
    action_scale: Tensor
    centres: Tensor

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
            self.decoder = TokenDecoder(config.decoder, config.horizon * config.body.action, config.bins)
            self.out = nn.Linear(width, outputs)
        self.register_buffer("action_offset", torch.zeros(1, config.body.action))
        self.register_buffer("action_scale", torch.ones(1, config.body.action))
        self.register_buffer("centres", bin_centres(config.bins), persistent=False)
        self._share_lora()

    @classmethod
    def from_config(cls, config: TokenVLAConfig) -> TokenVLA:
        """Load the backbone the config names and build the policy with fresh weights."""
        return cls(config, load_backbone(config.backbone))

    # ---- what SFT asks ---------------------------------------------------------------------------------------------
    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history (1: the present alone), actions executed per decision."""
        return self.config.horizon, 1, self.config.executed

    def body_index(self, name: str | None) -> int:
        """Return 0 for its body.  Raises InputError for another."""
        if name not in (None, self.config.body.name):
            raise problem("body", self.config.body.name, str(name))
        return 0

    def begin_step(self, share: float) -> None:
        """Nothing changes with the steps."""

    def trunk_tokens(self, batch: dict[str, Any]) -> None:
        """Return None: it has no trunk that comes from pretraining."""

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Return nothing: no weight of it comes from pretraining."""
        return {}

    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations: actions by `mode`, proprioception (N, O) by mean and deviation, always anew."""
        self.norm.forget(0)
        self.norm.update(proprio.to(self.norm.mean.device))
        made = Normalization.of(actions, mode)
        self.action_offset.copy_(torch.from_numpy(made.offset))
        self.action_scale.copy_(torch.from_numpy(made.scale))

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of demonstrated tokens (or the L1 loss); the batch is that of `FlowVLA.loss`.

        Returns the mean over real numbers and detached metrics.
        """
        seen, mask = batch["observation"], batch["mask"]
        observation: Any = {key: value[-1] for key, value in seen.items() if isinstance(value, Tensor)}
        if "instruction" in seen:
            observation["instruction"] = seen["instruction"]
        action = ((batch["action"] - self.action_offset) / self.action_scale).flatten(1)
        weight = mask.repeat_interleave(self.config.body.action, 1).to(action.dtype)
        total = weight.sum().clamp(min=1)
        if self.config.head == "laplace":
            mean, log_scale = self._laplace(self._hidden(observation, action.shape[1], None))
            miss = (action - mean).abs()
            # the spread learns beside the mean and does not weigh its errors: the L1 loss stays OFT's
            loss = ((miss + miss.detach() * (-log_scale).exp() + log_scale) * weight).sum() / total
            error = (miss.detach() * weight).sum() / total
            return loss, {"sft/loss": loss.item(), "sft/endpoint_error": error.item()}
        tokens = to_tokens(action, self.config.bins)
        logits = self.out(self._hidden(observation, action.shape[1], tokens))
        losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(action)
        loss = (losses * weight).sum() / total
        with torch.no_grad():
            said = logits.argmax(-1)
            metrics = {
                "sft/loss": loss.item(),
                "sft/endpoint_error": float(((self.centres[said] - action).abs() * weight).sum() / total),
                "sft/token_accuracy": float(((said == tokens) * weight).sum() / total),
            }
        return loss, metrics

    # ---- what decodes ----------------------------------------------------------------------------------------------
    def _begun(self, observation: Observation) -> tuple[Tensor, Any]:
        """Return the start token (N, d) and the opened context of observations (N, ...)."""
        context, mask = self.context(observation)
        return self.start(self.norm(observation["proprio"])), self.decoder.open(context, mask)

    def _hidden(self, observation: Observation, length: int, tokens: Tensor | None) -> Tensor:
        """Return the hidden states (N, L, d) that say tokens (N, L); in parallel they are not looked at."""
        start, said = self._begun(observation)
        if self.config.decoding == "parallel" or tokens is None:
            return self.decoder.together(start, length, said)
        return self.decoder.forced(start, tokens, said)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities (..., bins) of hidden states (..., d)."""
        logits: Tensor = self.out(hidden)
        return torch.log_softmax(logits.float() / self.config.temperature, -1)

    def _laplace(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.out(hidden).unbind(-1)
        return mean, log_scale.clamp(*LOG_SCALE)

    @property
    def _length(self) -> int:
        return self.config.executed * self.config.body.action

    def _draw(self, log_probs: Tensor, generator: torch.Generator | None, greedy: bool) -> Tensor:
        """Return tokens (...) drawn from log-probabilities (..., bins), or the likeliest."""
        if greedy:
            return log_probs.argmax(-1)
        point = rand((*log_probs.shape[:-1], 1), generator, log_probs.device)  # the first bin whose sum exceeds it
        return (log_probs.exp().cumsum(-1) < point).sum(-1).clamp(max=self.config.bins - 1)

    def _action(self, numbers: Tensor) -> Tensor:
        """Return the action (..., H_exec, A) in the environment's units of normalised numbers (..., L)."""
        chunk = numbers.unflatten(-1, (self.config.executed, -1))
        action = chunk * self.action_scale + self.action_offset
        return bounded(action, self.action_offset[0], self.action_scale[0])

    def _links(self, log_prob: Tensor) -> Tensor:
        """Return the log-densities (..., L') of what `ratio_per` says, of those of numbers (..., L)."""
        if self.config.ratio_per == "token":
            return log_prob
        return log_prob.unflatten(-1, (self.config.executed if self.config.ratio_per == "action" else 1, -1)).sum(-1)

    # ---- Policy ----------------------------------------------------------------------------------------------------
    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes the likeliest token of each (the mean)."""
        if self.config.head == "laplace":
            return self._act_laplace(observation, generator, deterministic), None
        if self.config.decoding == "parallel":
            log_probs = self._log_probs(self._hidden(observation, self._length, None))
            chain = self._draw(log_probs, generator, deterministic)
            log_prob = log_probs.gather(-1, chain[..., None])[..., 0]
            return Decision(self._action(self.centres[chain]), chain, self._links(log_prob)), None
        before, said = self._begun(observation)
        tokens, log_probs_of = [], []
        for _ in range(self._length):
            each = self._log_probs(self.decoder.next(before, said))
            token = self._draw(each, generator, deterministic)
            tokens.append(token)
            log_probs_of.append(each.gather(-1, token[:, None])[:, 0])
            before = self.decoder.words(token)
        chain = torch.stack(tokens, 1)
        return Decision(self._action(self.centres[chain]), chain, self._links(torch.stack(log_probs_of, 1))), None

    def _act_laplace(self, observation: Observation, generator: torch.Generator | None, greedy: bool) -> Decision:
        mean, log_scale = self._laplace(self._hidden(observation, self._length, None))
        scale = log_scale.exp() * self.config.temperature
        point = rand(mean.shape, generator, mean.device) - 0.5
        draw = mean if greedy else mean - scale * point.sign() * torch.log1p(-2 * point.abs().clamp(max=0.4999999))
        return Decision(self._action(draw), draw, self._links(_laplace_log_prob(draw, mean, scale)))

    @property
    def prompt_width(self) -> int:
        """Numbers of `prompt_hidden`."""
        return self.config.decoder.width

    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return the decoder's output (..., d) at the start token, before anything is said."""
        lead = observation["proprio"].shape[:-1]
        start, said = self._begun(_rows(observation, len(lead)))
        parallel = self.config.decoding == "parallel"
        return self.decoder.prompt(start, said, self._length if parallel else 0).unflatten(0, lead)

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, L): log_prob (T, B, L'), entropy (T, B) averaged over tokens, the expected action."""
        lead, flat = chain.shape[:-1], chain.flatten(0, 1)
        rows = _rows(observation, len(lead))
        tokens = None if self.config.head == "laplace" else flat
        hidden = self._hidden(rows, self._length, tokens)
        if self.config.head == "laplace":
            mean, log_scale = self._laplace(hidden)
            scale = log_scale.exp() * self.config.temperature
            log_prob = _laplace_log_prob(flat, mean, scale)
            entropy = (1 + math.log(2) + scale.log()).mean(-1)
        else:
            log_probs = self._log_probs(hidden)
            log_prob = log_probs.gather(-1, flat[..., None])[..., 0]
            probability = log_probs.exp()
            entropy, mean = -(probability * log_probs).sum(-1).mean(-1), (probability * self.centres).sum(-1)
        found = (self._links(log_prob), entropy, self._action(mean))
        return Score(*(value.unflatten(0, lead) for value in found))

    def update_normaliser(self, observation: Observation) -> None:
        """Leave the statistics as they are: it was fine-tuned with them."""

    def explorer(self, sampler: SamplerConfig) -> TokenVLA:
        """Return itself, drawing at the sampler's temperature.  Raises InputError for settings of flows."""
        refuse_without_effect(sampler, OF_FLOWS, "tokens")
        self.config = replace(self.config, temperature=sampler.temperature, ratio_per=sampler.ratio_per)
        return self


def _rows(observation: Observation, lead: int) -> Observation:
    """Return an observation with `lead` leading dimensions as rows (N, ...)."""
    rows: Any = {key: value.flatten(0, lead - 1) for key, value in observation.items() if isinstance(value, Tensor)}
    if "instruction" in observation:
        rows["instruction"] = observation["instruction"]
    return rows


def _laplace_log_prob(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return -(x - mean).abs() / scale - (2 * scale).log()
