"""The action expert: banks in, trunk, banks out.  The same class in RL (head direct) and in the VLA (head velocity or
endpoint); what `transfer` converts (docs/conversion.md).

Tokens of a decision: [a_prev, o_t | slot_1 .. slot_H].  Slots read the history and themselves, the history never reads
slots, so the history is the same whatever the noisy actions are (level B).  slot_h = e_h + W_in(x_tau, tau) with W_in's
last layer 0 at first (level C).  Flow time modulates the slots alone (`modulate="slots"`), so the history's keys and
values are made once per decision and serve every Euler step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.types import Observation
from toddle.maths import flow
from toddle.maths.masks import (
    additive,
    decision_rows,
    history_mask,
    ring_ages,
    slot_mask,
    steps_since_first,
    visible,
)
from toddle.models.attention import KVRing, rotary_table
from toddle.models.banks import Bank, bodies_of
from toddle.models.mlp import scale_
from toddle.models.sidecar import SideCar
from toddle.models.tokens import ExpertConfig, Tokens
from toddle.models.trunk import Segment, Trunk

__all__ = ["ActionExpert", "ExpertConfig", "make_adapter"]


class ActionExpert(nn.Module):
    """Tokens, trunk, decoders.  Raw output per head: the action (direct), its velocity, its estimate (endpoint)."""

    body_dt: Tensor
    action_mask: Tensor  # (bodies, A) float32, 1 where the dimension is the body's own
    future_bias: Tensor

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.config = config
        names = [body.name for body in config.bodies]
        d, hidden, bodies = config.trunk.width, config.bank_hidden, config.bodies
        actions = [body.action for body in bodies]
        self.tokens = Tokens(config)
        self.trunk = Trunk(config.trunk)
        self.out = Bank(names, [d] * len(bodies), hidden, actions)
        if config.head == "direct":
            for layer in self.out.last_layers():
                scale_(layer, 0.01)
        self.sidecar = None
        if config.sidecar is not None:
            self.sidecar = SideCar(config.sidecar, d, config.trunk.context_width)
        self.register_buffer("body_dt", torch.tensor([b.dt for b in bodies], dtype=torch.float64), persistent=False)
        mask = torch.zeros(len(bodies), config.action_width)
        for index, count in enumerate(actions):
            mask[index, :count] = 1
        self.register_buffer("action_mask", mask, persistent=False)
        self.register_buffer("future_bias", torch.zeros(()))

    def bodies(self, observation: Observation) -> int | Tensor:
        """Return the body id all rows share, or the ids (...)."""
        return bodies_of(observation.get("body"), len(self.config.bodies))

    def set_future_bias(self, value: float) -> None:
        """Set the bias on later slots (slot_mask bidirectional): see `maths.masks.annealed_bias`.  A saved buffer."""
        self.future_bias.fill_(value)

    def _times(self, clock: Tensor, body: int | Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """Return seconds of the history tokens (..., 2) and slots (..., H) of decisions at `clock` (...)."""
        dt = self.body_dt[body].expand(clock.shape)
        history = torch.stack([clock - dt * self.config.executed, clock], dim=-1)
        return history, clock[..., None] + dt[..., None] * torch.arange(slots, device=clock.device)

    def slot_rows(self, slots: int) -> Tensor:
        """Return the additive mask (H, H) among the slots of a decision."""
        bias = float(self.future_bias) if self.config.slot_mask == "bidirectional" else 0.0
        return slot_mask(slots, self.config.slot_mask, bias, self.tokens.slot.device)

    # ---- whole segments ----------------------------------------------------------------------------------------
    def forward(
        self,
        observation: Observation,
        context: Tensor | None,
        context_mask: Tensor | None,
        noisy: Tensor | None = None,
        tau: Tensor | None = None,
        *,
        last: int | None = None,
        slots: int | None = None,
    ) -> Tensor:
        """Return the head's raw output (T', B, H, A) for a segment of T decisions in time order.

        observation: (T, B, ...) with proprio, and where present previous_action, first (missing: one episode), body;
        context (T or 1, B, G, Dc) with mask (T or 1, B, G) bool; noisy (T', B, H, A), tau (T', B) for the flow heads.
        last: T', decisions at the end of the segment that get slots (all).  slots: only the first ones, where slots
        are causal (all).
        """
        return self.forward_with_history(observation, context, context_mask, noisy, tau, last=last, slots=slots)[0]

    def forward_with_history(
        self,
        observation: Observation,
        context: Tensor | None,
        context_mask: Tensor | None,
        noisy: Tensor | None = None,
        tau: Tensor | None = None,
        *,
        last: int | None = None,
        slots: int | None = None,
        return_history: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, with the history tokens (T, B, 2, d) after the trunk (meaningful with `return_history`)."""
        done, kept, late = self.forward_tokens(
            observation, context, context_mask, noisy, tau, last=last, slots=slots, return_history=return_history
        )
        return self.read(done, late, noisy, tau), kept

    def forward_tokens(
        self,
        observation: Observation,
        context: Tensor | None,
        context_mask: Tensor | None,
        noisy: Tensor | None = None,
        tau: Tensor | None = None,
        *,
        last: int | None = None,
        slots: int | None = None,
        return_history: bool = False,
    ) -> tuple[Tensor, Tensor, int | Tensor]:
        """As `forward` without the decoder: slots (T', B, H, d), history (T, B, 2, d), the slots' body ids.

        Several chunks a decision: noisy (T', B, L, H, A), tau (T', B, L) give slots (T', B, L, H, d) (`modulate` slots
        alone: else the history would differ with tau); history and the keys of the context are made once.
        """
        length, batch = observation["proprio"].shape[:2]
        decisions, count = last or length, slots or self.config.horizon
        lead = (decisions, batch) if tau is None else tuple(tau.shape)
        links = lead[2] if len(lead) == 3 else 1
        body = self.bodies(observation)
        history = self.tokens.history(observation, body).transpose(0, 1)
        late = body if isinstance(body, int) else body[length - decisions :]
        if not isinstance(late, int) and len(lead) == 3:
            late = late[..., None].expand(lead)
        tokens = self.tokens.slots(lead, late, noisy, tau, count).transpose(0, 1)
        context = None if context is None else context.expand(length, -1, -1, -1).transpose(0, 1)
        if context_mask is not None:
            context_mask = additive(context_mask.expand(length, -1, -1).transpose(0, 1))
        view = self._view(observation, body, decisions, count, links)
        done, kept = self.trunk.segment(
            history,
            tokens.reshape(batch, decisions * links, count, -1),
            view,
            context,
            context_mask,
            None if tau is None else tau.transpose(0, 1).reshape(batch, -1),
            modulate_history=self.config.modulate == "all",
            return_history=return_history,
        )
        if self.sidecar is not None:
            done = self._refine_segment(done, late, context, context_mask, links)
        return done.view(tokens.shape).transpose(0, 1), kept.transpose(0, 1), late

    def _refine_segment(
        self, slots: Tensor, body: int | Tensor, context: Tensor | None, context_mask: Tensor | None, links: int
    ) -> Tensor:
        """Run the side-car over slots (B, S' L, H, d); body one id or (S', B[, L]); context (B, S, G, Dc), mask."""
        own, mask = (
            None if part is None else part[:, -(slots.shape[1] // links) :].flatten(0, 1).repeat_interleave(links, 0)
            for part in (context, context_mask)
        )
        rows = body if isinstance(body, int) else body.transpose(0, 1).flatten()
        return self._refine(slots.flatten(0, 1), rows, own, mask).view(slots.shape)

    def _refine(self, slots: Tensor, body: int | Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        """Run the side-car over the slots (N, H, d) of single decisions."""
        if self.sidecar is None:
            return slots
        now = torch.zeros(len(slots), dtype=torch.float64, device=slots.device)
        _, times = self._times(now, body, slots.shape[1])
        refined: Tensor = self.sidecar(slots, times, self.slot_rows(slots.shape[1]), context, context_mask)
        return refined

    def _view(self, observation: Observation, body: int | Tensor, decisions: int, count: int, links: int) -> Segment:
        """Make the masks and rotary tables of a segment, once per forward."""
        length, batch = observation["proprio"].shape[:2]
        device, window = self.body_dt.device, self.config.window
        first = observation.get("first")
        first = torch.zeros(length, batch, dtype=torch.bool, device=device) if first is None else first
        steps = steps_since_first(first.T)
        body_of_row = body if isinstance(body, int) else body.T  # (B, T)
        decision_dt = self.body_dt[body_of_row] * self.config.executed
        clock = (torch.arange(length, device=device) * decision_dt).expand(batch, length)
        past_times, slot_times = self._times(clock, body_of_row, count)
        rows = additive(decision_rows(steps, window)[:, length - decisions :])
        slot_times = slot_times[:, length - decisions :]
        if links > 1:
            rows, slot_times = rows.repeat_interleave(links, 1), slot_times.repeat_interleave(links, 1)
        return Segment(
            history=additive(history_mask(steps, window))[:, None],
            rows=rows,
            slots=self.slot_rows(count),
            history_table=rotary_table(past_times.flatten(1), self.trunk.head_dim),
            slot_table=rotary_table(slot_times, self.trunk.head_dim),
            window=window,
            links=links,
        )

    # ---- one decision at a time ------------------------------------------------------------------------------------
    def initial_cache(self, batch: int, dtype: torch.dtype = torch.float32) -> KVRing:
        """Return an empty ring for `batch` worlds."""
        config, device = self.config, self.tokens.slot.device
        shape = (batch, config.trunk.heads, 2 * config.window + config.horizon, self.trunk.head_dim)
        layers = sum(kind == "self" for kind in config.trunk.kinds)
        return KVRing(
            keys=[torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)],
            values=[torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)],
            window=config.window,
            pointer=config.window - 1,
            count=torch.zeros(batch, dtype=torch.int64, device=device),
            clock=torch.zeros(batch, dtype=torch.float64, device=device),
        )

    @torch.no_grad()
    def begin(
        self, observation: Observation, context: Tensor | None, context_mask: Tensor | None, cache: KVRing
    ) -> KVRing:
        """Open a decision: advance the ring, forget where `first`, make the context's keys; no history tokens yet."""
        body = self.bodies(observation)
        cache.pointer = (cache.pointer + 1) % cache.window
        elapsed = cache.clock + self.body_dt[body] * self.config.executed
        first = observation.get("first")
        first = cache.count == 0 if first is None else first | (cache.count == 0)
        cache.count = torch.where(first, 1, cache.count + 1)
        cache.clock = torch.where(first, 0.0, elapsed)
        ages = ring_ages(cache.pointer, cache.window, cache.count.device)
        cache.rows = additive(torch.stack(visible(ages, cache.count[:, None], cache.window), dim=-1).flatten(1))
        keys = [block.context_keys(context) for block in self.trunk.layers()]
        cache.context = [key for key in keys if key is not None]
        cache.context_mask = None if context_mask is None else additive(context_mask)[:, None, None]
        cache.raw_context = context
        cache.body = body
        return cache

    @torch.no_grad()
    def prefix(
        self, observation: Observation, context: Tensor | None, context_mask: Tensor | None, cache: KVRing
    ) -> KVRing:
        """Append a decision's two history tokens to the ring (once per decision); `slots` may then be called often."""
        cache = self.begin(observation, context, context_mask, cache)
        if self.config.modulate == "slots":
            tokens = self.tokens.history(observation, cache.body)
            times, _ = self._times(cache.clock, cache.body, 1)
            self.trunk.step(tokens, times, self._history_rows(cache, 0), cache, history=2)
        else:
            cache.pending = self.tokens.history(observation, cache.body)
        return cache

    def _history_rows(self, cache: KVRing, slots: int) -> Tensor:
        """Return the additive rows (B, 1, 2, 2W + slots) of the decision's past action and observation."""
        assert cache.rows is not None
        row_o = cache.rows
        row_a = row_o.clone()
        at = 2 * cache.pointer
        row_a[:, at], row_a[:, at + 1] = 0.0, float("-inf")
        rows = torch.stack([row_a, row_o], dim=1)[:, None]
        return nn.functional.pad(rows, (0, slots), value=float("-inf"))

    def _slot_rows(self, cache: KVRing, count: int) -> Tensor:
        assert cache.rows is not None
        batch = len(cache.rows)
        past = cache.rows[:, None, None].expand(-1, 1, count, -1)
        return torch.cat([past, self.slot_rows(count).expand(batch, 1, -1, -1)], dim=-1)

    @torch.no_grad()
    def slots(self, cache: KVRing, noisy: Tensor | None = None, tau: Tensor | None = None) -> Tensor:
        """Return the raw output (B, H, A) of the decision opened by `prefix`; noisy (B, H, A), tau (B,)."""
        count = self.config.horizon
        batch = len(cache.count)
        tokens = self.tokens.slots((batch,), cache.body, noisy, tau, count)
        past_times, times = self._times(cache.clock, cache.body, count)
        rows = self._slot_rows(cache, count)
        if cache.pending is None:
            done = self.trunk.step(tokens, times, rows, cache, history=0, tau=tau)
        else:
            rows = torch.cat([self._history_rows(cache, count), rows], dim=2)
            both = torch.cat([cache.pending, tokens], dim=1)
            done = self.trunk.step(both, torch.cat([past_times, times], 1), rows, cache, history=2, tau=tau)[:, 2:]
        return self._decode(done, cache, noisy, tau)

    @torch.no_grad()
    def slots_of_links(self, cache: KVRing, noisy: Tensor, tau: Tensor) -> Tensor:
        """Do what `slots` does for L chunks (B, L, H, A) at times (B, L) at once; `modulate` slots alone."""
        lead, count = tau.shape, self.config.horizon
        body = cache.body if isinstance(cache.body, int) else cache.body[:, None].expand(lead)
        tokens = self.tokens.slots(tuple(lead), body, noisy, tau, count)
        _, times = self._times(cache.clock, cache.body, count)
        assert cache.rows is not None
        seen = cache.rows[:, None].expand(*lead, -1)
        done = self.trunk.step_links(tokens, times, seen, self.slot_rows(count), cache, tau)
        if self.sidecar is not None:
            context = None if cache.raw_context is None else cache.raw_context[:, None]
            mask = None if cache.context_mask is None else cache.context_mask[:, :, 0]
            rows = body if isinstance(body, int) else body[None]
            done = self._refine_segment(done, rows, context, mask, lead[1])
        return self.read(done, body, noisy, tau)

    def _decode(self, done: Tensor, cache: KVRing, noisy: Tensor | None, tau: Tensor | None) -> Tensor:
        """Return the raw output of slots (B, H, d) after the trunk."""
        if self.sidecar is not None:
            mask = None if cache.context_mask is None else cache.context_mask[:, 0, 0]
            done = self._refine(done, cache.body, cache.raw_context, mask)
        return self.read(done, cache.body, noisy, tau)

    @torch.no_grad()
    def step(
        self,
        observation: Observation,
        context: Tensor | None,
        context_mask: Tensor | None,
        cache: KVRing,
        noisy: Tensor | None = None,
        tau: Tensor | None = None,
        *,
        slots: int | None = None,
    ) -> tuple[Tensor, KVRing]:
        """Decide once: (B, ...) observations -> raw output (B, H, A) and the cache, which is written in place."""
        if self.tokens.action_in is not None:
            cache = self.prefix(observation, context, context_mask, cache)
            return self.slots(cache, noisy, tau), cache
        count = slots or self.config.horizon  # head direct: history and slots together, in half the calls
        cache = self.begin(observation, context, context_mask, cache)
        tokens = self.tokens.slots((len(cache.count),), cache.body, noisy, tau, count)
        past_times, times = self._times(cache.clock, cache.body, count)
        both = torch.cat([self.tokens.history(observation, cache.body), tokens], dim=1)
        rows = torch.cat([self._history_rows(cache, count), self._slot_rows(cache, count)], dim=2)
        done = self.trunk.step(both, torch.cat([past_times, times], 1), rows, cache, history=2, tau=tau)
        return self._decode(done[:, 2:], cache, noisy, tau), cache

    def read(self, slots: Tensor, body: int | Tensor, noisy: Tensor | None, tau: Tensor | None) -> Tensor:
        """Return the raw output (..., H, A) of slots (..., H, d) after the trunk, of chunks `noisy` at times tau."""
        raw: Tensor = self.out(slots, body)
        if self.config.contract and noisy is not None and tau is not None:
            raw = flow.contracting(raw, noisy, tau, self.config.head)
        return raw

    # ---- flow ------------------------------------------------------------------------------------------------------
    def as_velocity(self, raw: Tensor, noisy: Tensor, tau: Tensor, floor: float = flow.LOSS_FLOOR) -> Tensor:
        """Return the velocity that the raw output means at (noisy, tau); `floor` as in `velocity_from_endpoint`.

        Head noise: the velocity to the action in [-1, 1] that this noise leaves (the clamp of diffusion samplers).
        """
        if self.config.head == "noise":
            raw = flow.endpoint_from_noise(raw, noisy, tau)
        return raw if self.config.head == "velocity" else flow.velocity_from_endpoint(raw, noisy, tau, floor)

    @torch.no_grad()
    def sample(self, cache: KVRing, noise: Tensor, steps: int = 10) -> Tensor:
        """Integrate the flow from noise (B, H, A) to the action chunk, after `prefix`; padded dimensions come out 0.

        Head noise visits the times of its diffusion, whatever `steps`: DDIM with eta 0 (arXiv 2010.02502, eq. 12).
        """

        def velocity(x: Tensor, tau: Tensor) -> Tensor:
            return self.as_velocity(self.slots(cache, x, tau), x, tau, floor=0.0)

        made = flow.euler(velocity, noise, self.config.times or steps)
        return made * self.action_mask[cache.body].view(-1, 1, noise.shape[-1])

    @torch.no_grad()
    def update_statistics(self, observation: Observation) -> None:
        """Update the normalisation of proprioception and the moments of the tokens from a batch (any leading dims).

        Not between drawing a decision and scoring it: the ratio would no longer start at 1.
        """
        self.tokens.update(observation, self.bodies(observation))


def make_adapter(context_width: int, vlm_width: int) -> nn.Sequential:
    """Build the adapter of VLM tokens: LayerNorm -> Linear(d_vlm, d_g)."""
    return nn.Sequential(nn.LayerNorm(vlm_width), nn.Linear(vlm_width, context_width))
