"""FlowVLA: a backbone's context tokens, an adapter, and the action expert, which draws a chunk by flow matching.

    backbone(images, sentence) -> (B, G, D_vlm)   frozen: stands outside the policy's weights, known by fingerprint
    adapter: LayerNorm, Linear(D_vlm -> d_g)
    expert:  [o history | H slots] read the context; Euler from noise (tau 0) to the chunk (tau 1)
The context is encoded once per decision; the expert's keys of the history and the context serve every Euler step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Seed, Size, Whole
from toddle.core.protocols import Memory
from toddle.core.seeding import randn, seed_sequence
from toddle.core.types import Decision, Observation
from toddle.data.statistics import FeatureStatistics, Mode, Normalization
from toddle.maths import flow
from toddle.maths.masks import annealed_bias, what_is_seen
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.models.expert import ActionExpert, ExpertConfig, make_adapter
from toddle.models.resampler import Resampler
from toddle.models.table_sampler import TableSampler, check_tables
from toddle.policies.bounds import bounded
from toddle.policies.flow_explorer import FlowExplorer, SamplerConfig, make_explorer
from toddle.policies.seeing import SeeingPolicy

__all__ = ["FlowVLA", "FlowVLAConfig"]


@config
class FlowVLAConfig:
    """A VLA with our action expert."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model that reads pictures and sentence."""
    expert: ExpertConfig
    """The action expert; its head must be velocity or endpoint."""
    queries: Whole = 0
    """Tokens that a resampler makes of all of the backbone's; 0: an adapter maps each of them by itself."""
    steps: Size = 8
    """Euler steps from noise to the action chunk."""
    start: Literal["zero", "drawn"] = "zero"
    """Where the flow starts when no exploring is asked: at zero noise, which is no typical draw, or at a draw.  RL,
    which learns from draws, sets `drawn`."""
    source: Literal["noise", "previous"] = "noise"
    """Where the flow comes from: noise, or the last action that was executed (as of Streaming Flow Policy, arXiv
    2505.21851), with noise of `spread`; such a flow has no density, so that RL refuses it."""
    spread: Positive = 0.1
    """Source previous: deviation of the noise on the last action, in normalised actions."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures the backbone reads, in this order."""
    fingerprint: str = ""
    """Fingerprint of the backbone the policy was made with; filled in when it is built."""
    seed: Seed = 0
    """Seed of fresh weights."""

    def __post_init__(self) -> None:
        """Check what the parts cannot."""
        if self.expert.head == "direct":
            raise problem("expert.head", "'velocity' or 'endpoint'", "direct", "convert the expert (toddle transfer)")
        if self.source != "noise" and self.expert.head == "noise":
            raise problem("source", "noise with an expert whose head tells the noise", self.source)


class FlowVLA(SeeingPolicy):
    """A vision-language-action policy: a frozen (or LoRA) backbone, an adapter, and the flow-matching action expert.

    `expert` and `adapter` are the weights; `backbone` is held beside them.

    Actions are normalised: a = (action - action_offset) / action_scale, per body, padded to the widest.
    """

    kind: ClassVar[str] = "flow_vla"
    sequential = True
    action_offset: Tensor
    action_scale: Tensor

    def __init__(self, config: FlowVLAConfig, backbone: Backbone) -> None:
        """Build on a loaded backbone.  Raises InputError when its fingerprint is not the config's."""
        super().__init__(backbone, config.fingerprint, config.backbone.name)
        self.config = replace(config, fingerprint=self.fingerprint)
        self.horizon, self.bodies, self.cameras = config.expert.executed, config.expert.bodies, config.cameras
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(config.seed, "flow vla").generate_state(1)[0]))
            self.expert = ActionExpert(config.expert)
            widths = config.expert.trunk.context_width, backbone.width
            self.adapter = Resampler(*widths, config.queries) if config.queries else make_adapter(*widths)
        shape = (len(config.expert.bodies), config.expert.action_width)
        self.register_buffer("action_offset", torch.zeros(shape))
        self.register_buffer("action_scale", torch.ones(shape))
        self._tables: Callable[[int], TableSampler] | None = None  # of so many steps, once it is hastened
        self._share_lora()

    @classmethod
    def from_config(cls, config: FlowVLAConfig) -> FlowVLA:
        """Load the backbone the config names and build the policy with fresh weights."""
        return cls(config, load_backbone(config.backbone))

    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history, actions executed per decision: the windows of demonstrations it learns from."""
        return self.config.expert.horizon, self.config.expert.window, self.config.expert.executed

    def body_index(self, name: str | None) -> int:
        """Return the id of a body; the only one there is where `name` is None.  Raises InputError when unknown."""
        bodies = self.config.expert.bodies
        return self.config.expert.body_index(bodies[0].name if name is None and len(bodies) == 1 else str(name))

    # ---- normalisation ---------------------------------------------------------------------------------------------
    def set_action_normalization(self, body: int, offset: Tensor, scale: Tensor) -> None:
        """Set the offset and scale (A,) of one body's actions.  Raises InputError when a scale is not positive."""
        if not bool((scale > 0).all()):
            raise problem("action scale", "positive numbers", scale.tolist())
        self.action_offset[body, : len(offset)] = offset
        self.action_scale[body, : len(scale)] = scale

    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations: actions by `mode`; proprioception (N, O) only where RL has not done so already.

        A converted expert keeps the statistics it learned with, else its function would not be kept; `refit` gives
        that up.
        """
        norm = self.expert.tokens.norm
        if refit:
            norm.forget(body)
        if not float(norm.count[body]):
            norm.update(proprio.to(norm.mean.device), body)
        made = Normalization.of(actions, mode)
        self.set_action_normalization(body, torch.from_numpy(made.offset), torch.from_numpy(made.scale))

    def normalise(self, action: Tensor, body: Tensor) -> Tensor:
        """Map the environment's actions (..., H, A) of bodies (...) to what the flow is trained on.

        A may be less than the widest body's: the first numbers are a body's own.
        """
        offset, scale = (part[body][..., None, : action.shape[-1]] for part in (self.action_offset, self.action_scale))
        return (action - offset) / scale

    def denormalise(self, action: Tensor, body: Tensor) -> Tensor:
        """Undo `normalise`."""
        return action * self.action_scale[body].unsqueeze(-2) + self.action_offset[body].unsqueeze(-2)

    def _seen(self, observation: Observation) -> Observation:
        """Return the observation with the previous chunk as the flow knows actions: normalised, 0 where `first`."""
        previous = observation.get("previous_action")
        if previous is None:
            return observation
        chunk = previous.unflatten(-1, (self.config.expert.executed, -1))
        body = observation.get("body")
        body = torch.zeros(chunk.shape[:-2], dtype=torch.int64, device=chunk.device) if body is None else body
        normal = self.normalise(chunk, body).flatten(-2)
        if "first" in observation:
            normal = torch.where(observation["first"][..., None], 0.0, normal)
        return {**observation, "previous_action": normal}

    # ---- Policy ----------------------------------------------------------------------------------------------------
    def initial_memory(self, batch: int) -> Memory:
        """Return an empty KV ring of the history."""
        return self._tables(self.config.steps).start(batch) if self._tables else self.expert.initial_cache(batch)

    def hasten(self, how: Literal["tables", "graph", "inductor"], dtype: torch.dtype) -> None:
        """Draw chunks from now on by tables of the weights as they are, on the device where they are now.

        Raises InputError where the expert is of a kind that has none.
        """

        @functools.cache
        def tables(steps: int) -> TableSampler:
            made = TableSampler(self.expert, steps, dtype)
            made = made.compiled() if how == "inductor" else made
            return made.graphed() if how != "tables" and self.action_scale.is_cuda else made

        check_tables(self.config.expert)
        self._tables = tables

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Draw a chunk (B, H_exec, A) for (B, ...) observations; `deterministic` starts as `config.start` says.

        The chain is that noise (B, H, A); an ODE has no density, so log_prob is (B, 0).
        """
        settings = self.config.expert
        noise = self.action_scale.new_zeros(len(observation["proprio"]), settings.horizon, settings.action_width)
        if not deterministic or self.config.start == "drawn":
            noise = randn(noise.shape, generator, noise.device)
        action, memory = self.chunk_from(observation, noise, memory)
        return Decision(action, noise, action.new_zeros(len(action), 0)), memory

    def explorer(self, sampler: SamplerConfig) -> FlowExplorer:
        """Return what RL trains: this policy, drawn with the sampler's noise.

        Raises InputError where the flow does not come from noise.
        """
        if not self.from_noise:
            raise problem(
                "policy", "a VLA whose flow comes from noise, for RL", f"from the {self.config.source} action"
            )
        return make_explorer(self, sampler)

    @property
    def prompt_width(self) -> int:
        """Numbers of `prompt_hidden`."""
        return self.config.expert.trunk.width

    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return the observation token (..., d) after the trunk, of segments (T, B, ...) or decisions (N, ...).

        The history never reads slots, so it is the same whatever is drawn; one slot is enough.
        """
        if observation["proprio"].ndim == 2:
            one: Any = {key: value[None] for key, value in observation.items() if isinstance(value, Tensor)}
            if "instruction" in observation:
                one["instruction"] = observation["instruction"]
            return self.prompt_hidden(one)[0]
        context, mask = self.context(observation)
        tau = context.new_zeros(observation["proprio"].shape[:2])
        noisy = tau[..., None, None].expand(*tau.shape, 1, self.config.expert.action_width)
        seen = self._seen(observation)
        _, history, _ = self.expert.forward_tokens(seen, context, mask, noisy, tau, slots=1, return_history=True)
        return history[..., 1, :]

    # ---- its flow, for RL (core.protocols.Flowing) -------------------------------------------------------------------
    @property
    def flow_shape(self) -> tuple[int, int]:
        """(H, A) of what flows."""
        return self.config.expert.horizon, self.config.expert.action_width

    @property
    def from_noise(self) -> bool:
        """Whether the flow comes from noise."""
        return self.config.source == "noise"

    @property
    def summary_width(self) -> int:
        """Numbers of `summary`: proprioception and a context token."""
        return self.expert.tokens.norm.mean.shape[-1] + self.config.expert.trunk.context_width

    def set_flow_steps(self, steps: int) -> None:
        """Integrate the flow in so many Euler steps from now on, and from drawn noise."""
        self.config = replace(self.config, steps=steps, start="drawn")

    def _bodies(self, observation: Observation) -> Tensor:
        body = observation.get("body")
        proprio = observation["proprio"]
        return torch.zeros(proprio.shape[:-1], dtype=torch.int64, device=proprio.device) if body is None else body

    def own_numbers(self, observation: Observation) -> Tensor:
        """Return (..., A) float, 1 for the numbers of an action that are the row's body's own."""
        return self.expert.action_mask[self._bodies(observation)]

    def executed(self, chunk: Tensor, observation: Observation) -> Tensor:
        """Return the action (..., H_exec, A) in the environment's units of chunks (..., H, A) at the flow's end."""
        body = self._bodies(observation)
        action = self.denormalise(chunk, body)[..., : self.config.expert.executed, :]
        return bounded(action, self.action_offset[body], self.action_scale[body])

    def begun(self, noise: Tensor, seen: Observation) -> Tensor:
        """Return where the flow begins, (B, H, A), of noise (B, H, A) and what is `_seen`, (B, ...)."""
        if self.from_noise:
            return noise
        last = seen["previous_action"].unflatten(-1, (self.config.expert.executed, -1))[:, -1:]
        return nn.functional.pad(last, (0, noise.shape[-1] - last.shape[-1])) + self.config.spread * noise

    @torch.no_grad()
    def chunk_from(
        self, observation: Observation, noise: Tensor, memory: Memory = None, *, steps: int | None = None
    ) -> tuple[Tensor, Memory]:
        """Return the actions (B, H_exec, A) that the flow makes of noise (B, H, A), and the memory."""
        cache = self.initial_memory(len(noise)) if memory is None else memory
        context, mask = self.context(observation)
        seen, steps = self._seen(observation), steps or self.config.steps
        noise = self.begun(noise, seen)
        if self._tables is not None:
            chunk = self._tables(steps)(seen, context, mask, cache, noise)
        else:
            cache = self.expert.prefix(seen, context, mask, cache)
            chunk = self.expert.sample(cache, noise, steps)
        return self.executed(chunk, observation), cache

    @torch.no_grad()
    def open_flow(self, observation: Observation, memory: Memory) -> tuple[Callable[[Tensor, Tensor], Tensor], Memory]:
        """Open a decision; its keys of history and context serve every call of the velocity that is returned.

        An expert whose flow time modulates its history too has nothing to share: its chunks are taken one by one.
        """
        cache = self.initial_memory(len(observation["proprio"])) if memory is None else memory
        context, mask = self.context(observation)
        cache = self.expert.prefix(self._seen(observation), context, mask, cache)
        own = self.own_numbers(observation)[:, None, None]
        alone = self.config.expert.modulate == "all"

        def velocity(x: Tensor, tau: Tensor) -> Tensor:
            if alone or x.shape[1] == 1:
                raw = torch.stack([self.expert.slots(cache, x[:, i], tau[:, i]) for i in range(x.shape[1])], 1)
            else:
                raw = self.expert.slots_of_links(cache, x, tau)
            return self.expert.as_velocity(raw, x, tau, floor=0.0) * own

        return velocity, cache

    def velocities(self, observation: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """Return the velocities (T, B, L, H, A), with gradients, of L chunks a decision at times tau (T, B, L)."""
        context, mask = what_is_seen(*self.context(observation))
        seen = self._seen(observation)
        if self.config.expert.modulate == "all":
            raw = torch.stack(
                [self.expert(seen, context, mask, x[:, :, i], tau[..., i]) for i in range(tau.shape[-1])], 2
            )
        else:
            raw = self.expert(seen, context, mask, x, tau)
        return self.expert.as_velocity(raw, x, tau, floor=0.0) * self.own_numbers(observation)[..., None, None, :]

    @torch.no_grad()
    def summary(self, observation: Observation) -> Tensor:
        """Return normalised proprioception and the mean of the adapted context's real tokens, (..., D)."""
        context, mask = self.context(observation)
        weight = mask[..., None].to(context.dtype)
        pooled = (context * weight).sum(-2) / weight.sum(-2).clamp(min=1)
        proprio = self.expert.tokens.normed(observation["proprio"], self.expert.bodies(observation))
        return torch.cat([proprio, pooled], -1)

    # ---- supervised fine-tuning ------------------------------------------------------------------------------------
    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss of demonstrated chunks.

        batch: observation (T, B, ...) in time order, the last decision is the one that is learned; action (B, H, A)
        in the environment's units; mask (B, H) bool, False where the chunk reaches beyond its episode.
        Head velocity: |v - (a - eps)|^2.  Head noise: |eps' - eps|^2.  Head endpoint: |a1 - a|^2, which is the
        velocity's error times (1 - tau)^2 (unweighted, the last instants would count 1 / (1 - tau)^2).
        Returns the mean over real numbers and detached metrics.
        """
        error, weight, miss = self._errors(batch, generator)
        total = weight.sum().clamp(min=1)
        loss = error.sum() / total
        return loss, {"sft/loss": loss.item(), "sft/endpoint_error": (miss.sum() / total).item()}

    exact: ClassVar[bool] = False

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return the squared error (B,) of each demonstrated chunk, summed over its real numbers."""
        return self._errors(batch, generator)[0].flatten(1).sum(1)

    def _errors(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared errors (B, H, A), 0 where no number is real, which are, and the distances of the endpoints."""
        observation, mask = batch["observation"], batch["mask"]
        body = observation.get("body")
        batch_size = len(mask)
        body = torch.zeros(batch_size, dtype=torch.int64, device=mask.device) if body is None else body[-1]
        action = self.normalise(batch["action"], body)
        seen = self._seen(observation)
        now: Any = {"previous_action": seen["previous_action"][-1]} if "previous_action" in seen else {}
        noise = self.begun(randn(action.shape, generator, action.device), now)
        tau = flow.sample_time((batch_size,), generator).to(action.device)
        noisy = flow.interpolate(noise, action, tau)
        context, context_mask = what_is_seen(*self.context(observation))
        raw = self.expert(seen, context, context_mask, noisy[None], tau[None], last=1)[0]
        known = {"endpoint": action, "noise": noise, "velocity": flow.target_velocity(noise, action)}
        target = known[self.config.expert.head]
        weight = mask[..., None] * self.expert.action_mask[body][:, None, :]
        with torch.no_grad():
            end = flow.endpoint_from_velocity(self.expert.as_velocity(raw, noisy, tau, floor=1e-6), noisy, tau)
            miss = (end - action).abs() * weight
        return (raw - target).square() * weight, weight, miss

    def trunk_tokens(self, batch: dict[str, Any]) -> Tensor:
        """Return the trunk's slot tokens (B * H, d) of a batch's last decisions at tau 0.5, from zero noise."""
        observation, size = batch["observation"], len(batch["mask"])
        context, context_mask = self.context(observation)
        noisy = torch.zeros(1, size, self.config.expert.horizon, self.config.expert.action_width, device=context.device)
        tau = torch.full((1, size), 0.5, device=context.device)
        slots, _, _ = self.expert.forward_tokens(self._seen(observation), context, context_mask, noisy, tau, last=1)
        return slots.flatten(0, 2)

    def begin_step(self, share: float) -> None:
        """Anneal the bias on later slots over the first tenth of the steps, where slots are bidirectional."""
        if self.config.expert.slot_mask == "bidirectional":
            self.expert.set_future_bias(annealed_bias(share))

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that came from RL: the trunk without flow-time modulation and new sublayers."""
        new = (".modulation.", "trunk.time.", ".insert.", ".insert_norm.")
        return {
            name: value
            for name, value in self.named_parameters()
            if name.startswith("expert.trunk.") and not any(part in f"{name}." for part in new)
        }
