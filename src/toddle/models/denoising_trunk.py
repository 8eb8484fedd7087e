"""The VLA's action expert as a denoiser: what paradigm 2 trains is, weight for weight, what the VLA takes over.

The history (the present observation: window 1) and the context go through the trunk once per decision, `encode`; the
slots of any number of links L then read their keys in one pass, `forward`.  The expert's head gives the velocity of a
flow, or the noise of a diffusion; noisy chunks arrive in flow form (x_tau, tau), see `maths.diffusion.flow_time`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount, Size
from toddle.core.types import BodySpec, Observation
from toddle.maths.masks import additive
from toddle.models.attention import attend_slots, rotary_table
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.goal_encoder import GoalEncoder
from toddle.models.trunk import TrunkConfig

__all__ = ["EncodedDecision", "TrunkDenoiser", "TrunkDenoiserConfig"]


@config
class TrunkDenoiserConfig:
    """The transformer of the action expert, which `toddle transfer` makes the VLA's."""

    kind: Literal["trunk"] = "trunk"
    """Names the network in files."""
    trunk: TrunkConfig = TrunkConfig(width=96, depth=4, heads=4, context_width=64, modulation="residual")
    """The transformer; flow time must modulate it."""
    slot_mask: Literal["causal", "bidirectional"] = "causal"
    """Whether a slot sees the later slots of its decision."""
    bank_hidden: Size = 128
    """Hidden units of the banks of the body."""
    goal_dropout: Discount = 0.15
    """Share of decisions that are drawn with the goal hidden; trains the NULL token, where the VLA's adapter starts."""
    goal_hidden: Size = 128
    """Hidden units of the goal encoder."""
    contract: bool | None = None
    """Let the expert begin by shrinking the noise it is given (see `models.denoisers`)."""

    def __post_init__(self) -> None:
        if self.trunk.modulation == "none":
            raise problem("trunk.modulation", "residual, dit_literal or groot in a denoising policy", "none")


@dataclass
class EncodedDecision:
    """Keys and values of M decisions, one pair a block: of the context (cross) or of the observation (self)."""

    keys: list[tuple[Tensor, Tensor]]
    mask: Tensor | None  # additive (M, 1, 1, G)


class TrunkDenoiser(nn.Module):
    """Goal encoder and action expert.  `head` is velocity or noise; `times` the flow times a diffusion visits."""

    def __init__(
        self,
        config: TrunkDenoiserConfig,
        body: BodySpec,
        horizon: int,
        executed: int,
        *,
        head: Literal["velocity", "noise"],
        times: tuple[float, ...] = (),
        goal_parts: int = 256,
    ) -> None:
        super().__init__()
        self.config = config
        self.goals = GoalEncoder(config.trunk.context_width, goal_parts, hidden=config.goal_hidden)
        self.expert = ActionExpert(
            ExpertConfig(
                trunk=config.trunk,
                bodies=(body,),
                horizon=horizon,
                executed=executed,
                window=1,
                head=head,
                times=times,
                slot_mask=config.slot_mask,
                bank_hidden=config.bank_hidden,
                contract=bool(config.contract),
            )
        )
        assert self.expert.tokens.action_in is not None
        for layer in self.expert.tokens.action_in.last_layers():
            layer.reset_parameters()  # a converted expert starts blind to x_tau; one trained from scratch must not

    def encode(self, observation: Observation, dropped: Tensor | None) -> EncodedDecision:
        """Return the keys of decisions at observations (M, ...); `dropped` (M,) bool hides the goal."""
        expert, proprio = self.expert, observation["proprio"]
        goal = observation.get("goal")
        context, seen = self.goals(goal, observation.get("goal_mask"), dropped, (len(proprio),))
        mask = None if goal is None else additive(seen)[:, None, None]
        # With a window of 1 the past action is hidden from every row (maths.masks.visible): o_t is the history.
        o = expert.tokens.history({"proprio": proprio}, 0)[:, 1:]
        table = rotary_table(torch.zeros(1, dtype=torch.float64, device=o.device), expert.trunk.head_dim)
        out = []
        for block, needed in zip(expert.trunk.layers(), expert.trunk.history_needed, strict=True):
            keys = block.context_keys(context)
            if block.kind == "cross":
                assert keys is not None
                out.append(keys)
                o = block.read_context(o, keys, mask, None) if needed else o
                continue
            _, k, v = block.attention.project(block.enter(o, None), table)
            out.append((k, v))
            if needed:
                o = block.leave(o, block.attention.merge(v), None)  # alone it attends to itself
        return EncodedDecision(out, mask)

    def forward(self, shared: EncodedDecision, x: Tensor, tau: Tensor) -> Tensor:
        """Return the head's raw output (M, L, H, A) for chunks x (M, L, H, A) at flow times tau (L,) or (M, L)."""
        expert, (rows, links, count) = self.expert, x.shape[:3]
        trunk = expert.trunk
        slots = expert.tokens.slots((rows, links), 0, x, tau.expand(rows, links), count)
        condition = trunk.condition(tau)  # (L, d) serves all rows where they share their times
        times = expert.body_dt[0] * torch.arange(count, device=x.device)
        table, among = rotary_table(times, trunk.head_dim), expert.slot_rows(count)
        visible = x.new_zeros(1, links, 1)
        for block, keys in zip(trunk.layers(), shared.keys, strict=True):
            m = block.modulators(condition)
            y = block.enter(slots, m)
            if block.kind == "cross":
                done = block.cross(y.flatten(1, 2), keys, shared.mask).view_as(slots)
            else:
                q, k, v = block.attention.project(y, table)
                done = block.attention.merge(attend_slots(q, (k, v), keys, visible, among))
            slots = block.leave(slots, done, m)
        return expert.read(trunk.norm(slots), 0, x, tau)
