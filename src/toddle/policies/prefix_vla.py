"""VLAs whose action expert reads the keys and values of every layer of their VLM: pi0, pi0.5, SmolVLA.

    pictures, sentence (and what else is read once a decision) -> prefix: keys and values of every layer, one context
    [shared tokens | H noisy actions] and flow time            -> the expert -> velocity; Euler from noise to the chunk
Their flow time runs the other way (t = 1 noise, t = 0 action, velocity noise - action); it is turned at this border, by
`maths.flow`, and nothing outside this file knows.
Deviations from openpi and LeRobot: chunk positions beyond an episode's end are masked; padded action dimensions are
trained, as there; the normalised state is clipped at +-10 deviations.
Weights that never learn are not stored with a policy or a run: they are read from `source` again, and a fingerprint
says which they were.  Where the VLM is frozen the context can be kept in place of pictures (`encode`): large, 5.6 MB a
decision and camera of pi0's size in float16, but then RL runs the VLM once a decision.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Size
from toddle.core.protocols import Memory
from toddle.core.seeding import randn
from toddle.core.types import BodySpec, Decision, Observation, Reading, sentences_of
from toddle.data.statistics import FeatureStatistics, Mode, Normalization, feature_statistics
from toddle.maths import flow
from toddle.models.backbones.base import check_images, fingerprint_of, reading_of, tell_what_is_lost
from toddle.models.lora import add_lora, merge_in_place
from toddle.models.normalizer import CLIP
from toddle.models.recompute import recompute_layers
from toddle.policies.bounds import bounded
from toddle.policies.flow_explorer import FlowExplorer, SamplerConfig, make_explorer

__all__ = ["PrefixConfig", "PrefixVLA", "Sizes", "pad"]


@config
class PrefixConfig:
    """A VLA of others' weights for one body."""

    source: str
    """Folder or hub id with the config, weights and tokenizer; config and tokenizer are read from there again when
    the policy is loaded, and with them what does not learn."""
    body: BodySpec
    """The embodiment."""
    executed: Size = 8
    """Actions of a chunk that are executed before the next decision."""
    steps: Size = 10
    """Euler steps from noise to the chunk."""
    start: Literal["zero", "drawn"] = "zero"
    """Where the flow starts when no exploring is asked: at zero noise, or at a draw, which RL sets."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures it reads, in this order."""
    text_tokens: Size = 48
    """Tokens a sentence is padded or cut to."""
    train: Literal["expert", "lora", "all"] = "expert"
    """What training changes: the action expert alone, LoRA on the VLM too, or all of the VLM too."""
    lora_rank: Size = 8
    """Rank of LoRA on the attention of the VLM's language model and picture tower (with train lora)."""
    lora_alpha: Positive = 16.0
    """LoRA's scale: the update is multiplied by alpha / rank."""
    lora_on: Literal["attention", "all"] = "attention"
    """Which layers LoRA is on: those of attention, or those of the language model's MLPs too."""
    fingerprint: str = ""
    """Fingerprint of the VLM the policy was made with, where that stays as it is; filled in when it is built."""
    tokenizer: str = ""
    """Folder or hub id of the tokenizer, where the source has none (LeRobot's, openpi's); empty: the source's own."""


SEEN = ("images", "instruction", "task")
"""What a prefix is made of, besides the state."""


class Sizes(NamedTuple):
    """What a checkpoint has room for, and the sizes of its keys."""

    chunk: int  # H
    state: int
    action: int
    picture: int  # side, in pixels
    layers: int
    key_heads: int
    head_dim: int

    @property
    def context(self) -> int:
        """D, numbers of a context token: keys and values of every layer."""
        return 2 * self.layers * self.key_heads * self.head_dim


class Seen(NamedTuple):
    """What the expert reads of N decisions."""

    context: Tensor  # (N, G, D)
    mask: Tensor  # (N, G) bool
    state: Tensor  # (N, O), normalised


class PrefixVLA(nn.Module, ABC):
    """A VLA for one body: a VLM, its expert, and the statistics that normalise for it.

    A subclass has the networks, and says how they are read: `_prefix`, `_velocity`, `_ids`.
    """

    kind: ClassVar[str]
    expert_names: ClassVar[tuple[str, ...]]
    """How the names of the expert's transformer begin."""
    sequential, exact, from_noise = False, False, True
    features: ClassVar[None] = None  # SFT does not cache keys and values of every layer: too large
    state_offset: Tensor
    state_scale: Tensor
    action_offset: Tensor
    action_scale: Tensor
    elsewhere: frozenset[str]
    """Names of the weights that never learn, which are not stored."""

    def __init__(self, config: Any, sizes: Sizes, tokenizer: Any) -> None:
        """Note what it is.  Raises InputError when the checkpoint is too small for the body or the chunk."""
        super().__init__()
        check_sizes(config, self.kind, sizes)
        self.config, self.sizes, self.tokenizer = config, sizes, tokenizer
        self.horizon, self.bodies, self.cameras = config.executed, (config.body,), config.cameras
        for name, size in (("state", config.body.proprio), ("action", config.body.action)):
            self.register_buffer(f"{name}_offset", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def ready(self) -> Self:
        """Freeze what does not learn, put LoRA on the VLM where asked, and leave what is frozen out of the state.

        A subclass calls it once its weights are those of the source.  Raises InputError where these are not those that
        the policy was made with.
        """
        if (config := self.config).train != "all":
            if config.fingerprint not in ("", found := fingerprint_of(self.vlm, {})):
                want = f"the weights of fingerprint {config.fingerprint}, which the policy was trained with"
                raise problem(f"{self.kind} {config.source}", want, found, "restore that folder or train again")
            self.config = replace(config, fingerprint=found)
            self.vlm.requires_grad_(False)
        if config.train == "lora":
            add_lora(self.vlm, rank=config.lora_rank, alpha=config.lora_alpha, mlp=config.lora_on == "all")
        recompute_layers(self.vlm)
        named = self.named_parameters(remove_duplicate=False)
        self.elsewhere = frozenset(name for name, value in named if not value.requires_grad)
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_fill_in)
        return self

    # ---- what a subclass says ----------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def vlm(self) -> nn.Module:
        """The vision-language model."""

    @abstractmethod
    def _prefix(self, state: Tensor, images: Tensor, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Return context (N, G, D) and its mask of normalised states (N, O), pictures (N, n, 3, H, W), sentences."""

    @abstractmethod
    def _velocity(self, seen: Seen, x: Tensor, t: Tensor) -> Tensor:
        """Return their velocity (N, L, H, A) at chunks x of that shape and times t (N, L), the prefix read once."""

    @abstractmethod
    def _ids(self, sentence: str, state: Tensor | None = None) -> list[int]:
        """Return the tokens of a sentence (and of a state (O,), where that is read as text)."""

    # ---- what SFT and its command ask --------------------------------------------------------------------------------
    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history, actions executed per decision."""
        return self.sizes.chunk, 1, self.config.executed

    def body_index(self, name: str | None) -> int:
        """Return 0 for its body.  Raises InputError for another."""
        if name not in (None, self.config.body.name):
            raise problem("body", self.config.body.name, str(name))
        return 0

    def reading(self, sentence: str) -> Reading:
        """Return how much of a sentence it reads."""
        return reading_of(self._ids(sentence), self.config.text_tokens, self.tokenizer)

    def begin_step(self, share: float) -> None:
        """Nothing changes with the steps."""

    def trunk_tokens(self, batch: dict[str, Any]) -> None:
        """Return None: it shows no tokens of its expert."""

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Return the action expert's transformer."""
        return {name: value for name, value in self.named_parameters() if name.startswith(self.expert_names)}

    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations: state by mean and deviation, actions by `mode`; always anew, `refit` or not."""
        self._normalise("state", Normalization.of(feature_statistics(proprio.cpu().numpy()), self._state_mode))
        self._normalise("action", Normalization.of(actions, mode))

    _state_mode: ClassVar[Mode] = "mean_std"

    def _normalise(self, name: str, made: Normalization) -> None:
        getattr(self, f"{name}_offset").copy_(torch.from_numpy(made.offset))
        getattr(self, f"{name}_scale").copy_(torch.from_numpy(made.scale))

    def _take_statistics(self, found: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Normalise by a folder's statistics; NaN, with which nothing acts, where they are none or another body's."""
        for name in ("state", "action"):
            for buffer, value in zip(("offset", "scale"), found.get(name, (None, None)), strict=True):
                own = getattr(self, f"{name}_{buffer}")
                own.copy_(value if value is not None and value.shape == own.shape else own.new_tensor(float("nan")))

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss of demonstrated chunks; the batch is that of `FlowVLA.loss` with T = 1 and pictures."""
        error, weight, miss = self._errors(batch, generator)
        loss, own = error.sum() / weight.sum().clamp(min=1), weight[..., : self.config.body.action]
        return loss, {"sft/loss": loss.item(), "sft/endpoint_error": (miss.sum() / own.sum().clamp(min=1)).item()}

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return the squared error (B,) of each demonstrated chunk, summed over its body's own real numbers."""
        return self._errors(batch, generator)[0][..., : self.config.body.action].flatten(1).sum(1)

    def _errors(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared errors (B, H, D), 0 where none is real, which are, and the endpoints' distances (B, H, A)."""
        seen, mask = batch["observation"], batch["mask"]
        now: Any = {name: value[-1:] if isinstance(value, Tensor) else value for name, value in seen.items()}
        action = pad((batch["action"] - self.action_offset) / self.action_scale, self.sizes.action)
        noise = randn(action.shape, generator, action.device)
        tau = flow.sample_time((len(action),), generator).to(action.device)
        noisy = flow.interpolate(noise, action, tau)
        velocity = self.velocities(now, noisy[None, :, None], tau[None, :, None])[0, :, 0]
        weight = mask[..., None].expand_as(action).float()
        miss = (flow.endpoint_from_velocity(velocity.detach(), noisy, tau) - action).abs() * weight
        error = (velocity - flow.target_velocity(noise, action)).square() * weight
        return error, weight, miss[..., : self.config.body.action]

    # ---- Policy ------------------------------------------------------------------------------------------------------
    def initial_memory(self, batch: int) -> Memory:
        """It has none."""

    @torch.no_grad()
    def encode(self, observation: Observation) -> Observation:
        """Return the observation with the frozen VLM's keys and values, in float16, in place of what it read."""
        if self.config.train != "expert" or "context" in observation:
            return observation
        lead, seen = observation["proprio"].shape[:-1], self._see(observation)
        made: Any = {"context": seen.context.half().unflatten(0, lead), "context_mask": seen.mask.unflatten(0, lead)}
        return {**{key: value for key, value in observation.items() if key not in SEEN}, **made}  # type: ignore[typeddict-item]

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Draw a chunk (B, H_exec, A); `deterministic` starts as `config.start` says.  The chain is the noise;
        log_prob is (B, 0): an ODE has none."""
        noise = torch.zeros(len(observation["proprio"]), *self.flow_shape, device=self.state_scale.device)
        if not deterministic or self.config.start == "drawn":
            noise = randn(noise.shape, generator, noise.device)
        action, _ = self.chunk_from(observation, noise)
        return Decision(action, noise, action.new_zeros(len(action), 0)), None

    def explorer(self, sampler: SamplerConfig) -> FlowExplorer:
        """Return what RL trains: this policy, drawn with the sampler's noise."""
        return make_explorer(self, sampler)

    # ---- its flow, for RL (core.protocols.Flowing) -------------------------------------------------------------------
    @property
    def flow_shape(self) -> tuple[int, int]:
        """(H, A) of what flows, A padded as the checkpoint has it."""
        return self.sizes.chunk, self.sizes.action

    def set_flow_steps(self, steps: int) -> None:
        """Integrate the flow in so many Euler steps from now on, and from drawn noise."""
        self.config = replace(self.config, steps=steps, start="drawn")

    def own_numbers(self, observation: Observation) -> Tensor:
        """Return (..., A) float, 1 for the numbers of an action that are the body's, 0 for padding."""
        proprio = observation["proprio"]
        own = torch.arange(self.sizes.action, device=proprio.device) < self.config.body.action
        return own.float().expand(*proprio.shape[:-1], -1)

    def executed(self, chunk: Tensor, observation: Observation) -> Tensor:
        """Return the action (..., H_exec, A_body) in the environment's units of chunks (..., H, A)."""
        own = chunk[..., : self.config.executed, : self.config.body.action]
        return bounded(own * self.action_scale + self.action_offset, self.action_offset, self.action_scale)

    @torch.no_grad()
    def chunk_from(
        self, observation: Observation, noise: Tensor, memory: Memory = None, *, steps: int | None = None
    ) -> tuple[Tensor, Memory]:
        """Return the actions (B, H_exec, A_body) that the flow makes of noise (B, H, A), and no memory."""
        velocity, _ = self.open_flow(observation, None)
        steps = steps or self.config.steps
        chunk = flow.euler(lambda x, tau: velocity(x[:, None], tau[:, None])[:, 0], noise, steps)
        return self.executed(chunk, observation), None

    def open_flow(self, observation: Observation, memory: Memory) -> tuple[Callable[[Tensor, Tensor], Tensor], Memory]:
        """Open a decision; its prefix serves every call of the velocities that are returned."""
        with torch.no_grad():
            seen = self._see(observation)

        @torch.no_grad()
        def velocity(x: Tensor, tau: Tensor) -> Tensor:
            return self._ours(seen, x, tau)

        return velocity, memory

    def velocities(self, observation: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """Return the velocities (T, B, L, H, A), with gradients, of L chunks a decision at times tau (T, B, L)."""
        velocity = self._ours(self._see(observation), x.flatten(0, 1), tau.flatten(0, 1))
        return velocity.unflatten(0, tau.shape[:2])

    def _ours(self, seen: Seen, x: Tensor, tau: Tensor) -> Tensor:
        """Return the velocity in toddle's direction."""
        _, t = flow.to_pi0(x, tau)
        ours, _ = flow.from_pi0(self._velocity(seen, x, t), t)
        return ours

    @property
    def summary_width(self) -> int:
        """Numbers of `summary`."""
        return self.config.body.proprio + self.sizes.context

    @property
    def prompt_width(self) -> int:
        """Numbers of `prompt_hidden`."""
        return self.summary_width

    @torch.no_grad()
    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return the state and the keys and values of the last real token of the prefix, each head normed, (..., D)."""
        seen = self._see(observation)
        last = seen.mask.shape[1] - 1 - seen.mask.int().flip(1).argmax(1)
        token = seen.context[torch.arange(len(last), device=last.device), last].unflatten(-1, (-1, self.sizes.head_dim))
        normed = nn.functional.layer_norm(token, token.shape[-1:]).flatten(1)
        return torch.cat([seen.state, normed], 1).unflatten(0, observation["proprio"].shape[:-1])

    def summary(self, observation: Observation) -> Tensor:
        """Return `prompt_hidden`."""
        return self.prompt_hidden(observation)

    @property
    def context_width(self) -> int:
        """D of the context that `encode` keeps; 0 where the VLM learns."""
        return self.sizes.context if self.config.train == "expert" else 0

    def merge_lora(self) -> None:
        """Fold LoRA, where it has any, into the VLM's weights as it is now: call it on a policy that acts alone."""
        merge_in_place(self.vlm)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Act with LoRA, where it has any, folded into the VLM's weights as it is now, until this ends."""
        put_back = merge_in_place(self.vlm)
        try:
            yield
        finally:
            put_back()

    def frozen_copy(self, *, lora: bool = False) -> Self:
        """Return a copy that does not learn, as it is now; it shares the weights that do not learn here either.

        Raises InputError with `lora`: what a critic reads of it has no gradient.
        """
        if lora:
            raise problem("critic", f"homogeneous with a {self.kind}", "homogeneous-lora")
        kept = {id(value): value for value in self.parameters() if not value.requires_grad}
        return copy.deepcopy(self, kept).requires_grad_(False).eval()

    # ---- inputs ------------------------------------------------------------------------------------------------------
    def _see(self, observation: Observation) -> Seen:
        """Read observations, leading dimensions flattened: a context that was kept, else pictures and words."""
        if bool((self.state_scale.sum() + self.action_scale.sum()).isnan()):
            want = f"statistics of the state and actions of body '{self.config.body.name}'"
            raise problem(
                f"{self.kind} {self.config.source}", want, "none that fit", "fine-tune it (toddle sft --init)"
            )
        proprio = observation["proprio"].to(self.state_scale.device)[..., : self.config.body.proprio].flatten(0, -2)
        state = ((proprio - self.state_offset) / self.state_scale).clamp(-CLIP, CLIP)
        if "context" in observation:
            context, mask = observation["context"].flatten(0, -3).float(), observation["context_mask"].flatten(0, -2)
        elif "images" in observation and "instruction" in observation:
            images, sentences = observation["images"].flatten(0, -5), sentences_of(observation)
            sentences = sentences * (len(images) // len(sentences))
            check_images(images, sentences)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train != "expert"):
                context, mask = self._prefix(state, images, sentences)
        else:
            raise problem(
                "observation",
                "'images' and 'instruction', or kept 'context'",
                ", ".join(observation),
                f"make the environment with cameras={self.config.cameras}",
            )
        return Seen(context, mask, state)

    def _words(self, sentences: list[str], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ids and mask (N, text_tokens) of sentences (and states (N, O), where they are read as text)."""
        rows, room = list[list[int]](), self.config.text_tokens
        for index, sentence in enumerate(sentences):
            row = self._ids(sentence, None if state is None else state[index])
            remedy = "shorten it, or make the policy with more text_tokens"
            tell_what_is_lost(sentence, reading_of(row, room, self.tokenizer), remedy)
            rows.append(row[:room])
        pad_id = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad_id] * (room - len(row)) for row in rows], device=self.state_scale.device)
        real = torch.tensor([len(row) for row in rows], device=ids.device)
        return ids, torch.arange(room, device=ids.device) < real[:, None]


def _leave_out(vla: Any, state: dict[str, Any], prefix: str, meta: Any) -> None:
    for name in vla.elsewhere:
        state.pop(prefix + name, None)


def _fill_in(vla: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, value in vla.named_parameters(remove_duplicate=False):
        if name in vla.elsewhere:
            state.setdefault(prefix + name, value.detach())


def check_sizes(config: Any, kind: str, sizes: Sizes) -> None:
    """Raise InputError, one line, where a size of the checkpoint's config is too small for the body or the chunk."""
    body = config.body
    for field, room, need, why, remedy in (
        ("max_state_dim", sizes.state, body.proprio, f"for the proprioception of body '{body.name}'", "take a larger"),
        ("max_action_dim", sizes.action, body.action, f"for the actions of body '{body.name}'", "take a larger"),
        ("chunk_size", sizes.chunk, config.executed, "for the actions executed of a chunk", "execute fewer"),
    ):
        if room < need:
            remedy += " checkpoint" if remedy == "take a larger" else " (--expert.executed)"
            raise problem(f"{kind} {config.source}: {field}", f"at least {need}, {why}", room, remedy)


def pad(x: Tensor, size: int) -> Tensor:
    """Return x (..., n) with zeros up to (..., size)."""
    return nn.functional.pad(x, (0, size - x.shape[-1]))
