"""The sizes of the action expert, and its way in: banks that embed observations, past chunks and noisy actions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import nearest, problem
from toddle.core.numbers import Share, Size
from toddle.core.types import BodySpec, Observation
from toddle.models.banks import Bank, body_rows
from toddle.models.mlp import zero_
from toddle.models.modulation import sinusoid
from toddle.models.normalizer import RunningNorm, TokenMoments
from toddle.models.trunk import TrunkConfig

__all__ = ["ExpertConfig", "Tokens"]

TIME_FEATURES = 32


@config
class ExpertConfig:
    """Sizes and form of the action expert."""

    trunk: TrunkConfig
    """The transformer."""
    bodies: tuple[BodySpec, ...]
    """The embodiments with a bank each; their order is their id."""
    horizon: Size = 8
    """H, action slots of a decision."""
    executed: Size = 8
    """H_exec, actions of a decision that are executed before the next one."""
    window: Size = 16
    """T, decisions the history reaches back (1: the present observation alone)."""
    head: Literal["direct", "velocity", "endpoint", "noise"] = "direct"
    """What the decoder gives: the action itself, the flow's velocity, the estimated end of the flow, or the noise it
    began with (an expert that was trained as a diffusion)."""
    times: tuple[Share, ...] = ()
    """Head noise: the flow times in (0, 1) that sampling visits, those of the diffusion's steps."""
    contract: bool = False
    """Heads velocity and noise: add a share of the noisy chunk to the output (`maths.flow.contracting`)."""
    slot_mask: Literal["causal", "bidirectional"] = "causal"
    """Whether a slot sees the later slots of its decision."""
    modulate: Literal["slots", "all"] = "slots"
    """Which tokens flow time modulates; all needs window 1 (nothing can be cached then)."""
    bank_hidden: Size = 128
    """Hidden units of the banks' MLPs."""
    sidecar: TrunkConfig | None = None
    """A second trunk of any width beside the first, which refines its slots (see models/sidecar.py)."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if not 1 <= self.executed <= self.horizon:
            raise problem("executed", f"1 to horizon {self.horizon}", self.executed)
        if not self.bodies:
            raise problem("bodies", "at least one body", "none")
        names = [body.name for body in self.bodies]
        if len(set(names)) < len(names):
            raise problem("bodies", "different names", ", ".join(names))
        if self.modulate == "all" and self.window > 1:
            raise problem("modulate", "'slots' where window > 1", "all", "set window to 1 or modulate to slots")
        if (self.head == "noise") != bool(self.times):
            raise problem("times", "flow times with head noise, and with no other head", self.times)
        if self.contract and self.head not in ("velocity", "noise"):
            raise problem("contract", "head velocity or noise", self.head)
        if self.head == "direct" and self.trunk.modulation != "none":
            raise problem("trunk.modulation", "'none' with head direct", self.trunk.modulation)

    @property
    def action_width(self) -> int:
        """A of the widest body."""
        return max(body.action for body in self.bodies)

    def body_index(self, name: str) -> int:
        """Return a body's id.  Raises InputError when it is unknown."""
        names = [body.name for body in self.bodies]
        if name not in names:
            raise problem("body", "a body of the policy", name, nearest(name, names))
        return names.index(name)


class Tokens(nn.Module):
    """Embeds the tokens of a decision; everything here belongs to embodiments, except the slots' embeddings e_h."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.config = config
        names = [body.name for body in config.bodies]
        d, hidden, bodies = config.trunk.width, config.bank_hidden, config.bodies
        actions, widths = [body.action for body in bodies], [config.trunk.width] * len(bodies)
        self.norm = RunningNorm([body.proprio for body in bodies])
        self.observation_in = Bank(names, [body.proprio for body in bodies], hidden, widths)
        self.past_in = Bank(names, [a * config.executed for a in actions], hidden, widths)
        self.slot = nn.Parameter(torch.randn(config.horizon, d) * 0.02)
        self.action_in = None
        if config.head != "direct":
            self.action_in = Bank(names, [a + TIME_FEATURES for a in actions], hidden, widths)
            for layer in self.action_in.last_layers():
                zero_(layer)
        self.moments = TokenMoments(d)

    def normed(self, proprio: Tensor, body: int | Tensor) -> Tensor:
        """Return normalised proprioception (..., O) of one body or of the bodies (...), 0 beyond a body's own."""
        if isinstance(body, int):
            return self.norm(proprio, body)
        out = torch.zeros_like(proprio)
        for index, rows in body_rows(body):
            out[..., : self.config.bodies[index].proprio][rows] = self.norm(proprio[rows], index)
        return out

    def history(self, observation: Observation, body: int | Tensor) -> Tensor:
        """Return the tokens [a_prev, o_t] (..., 2, d).  Raises InputError where proprioception is too narrow."""
        proprio = observation["proprio"]
        need = max(self.config.bodies[i].proprio for i, _ in body_rows(body))
        if proprio.shape[-1] < need:
            raise problem("observation.proprio", f"{need} numbers", proprio.shape[-1])
        o = self.observation_in(self.normed(proprio, body), body)
        previous = observation.get("previous_action")
        if previous is None:
            past = torch.zeros_like(o)
        else:
            past = self.past_in(self._own_numbers(previous, body), body)
        return torch.stack([past, o], dim=-2)

    def _own_numbers(self, chunk: Tensor, body: int | Tensor) -> Tensor:
        """Turn chunks (..., H_exec * A_widest) into rows whose first H_exec * A_body numbers are the body's own."""
        executed, widest = self.config.executed, self.config.action_width
        sizes = [spec.action for spec in self.config.bodies]
        if len(set(sizes)) == 1 or chunk.shape[-1] != executed * widest:
            return chunk
        if isinstance(body, int):
            return chunk.unflatten(-1, (executed, widest))[..., : sizes[body]].flatten(-2)
        out = torch.zeros_like(chunk)
        for index, rows in body_rows(body):
            own = chunk[rows].unflatten(-1, (executed, widest))[..., : sizes[index]].flatten(-2)
            out[..., : own.shape[-1]][rows] = own
        return out

    def slots(
        self, lead: tuple[int, ...], body: int | Tensor, noisy: Tensor | None, tau: Tensor | None, count: int
    ) -> Tensor:
        """Return slot tokens (*lead, count, d): e_h + W_in(x_tau, tau)."""
        slots = self.slot[:count].expand(*lead, count, -1)
        if self.action_in is None:
            return slots
        if noisy is None or tau is None:
            raise problem("noisy", "noisy actions and tau with head velocity or endpoint", "none")
        time = sinusoid(tau, TIME_FEATURES)[..., None, :].expand(*lead, count, -1)
        if isinstance(body, int):
            own = noisy[..., : self.config.bodies[body].action]
            return slots + self.action_in(torch.cat([own, time], -1), body)
        lifted = torch.zeros_like(slots)
        for index, rows in body_rows(body):
            own = torch.cat([noisy[rows][..., : self.config.bodies[index].action], time[rows]], -1)
            lifted = lifted.index_put((rows,), self.action_in(own, index))
        return slots + lifted

    @torch.no_grad()
    def update(self, observation: Observation, body: int | Tensor) -> None:
        """Update the normalisation of proprioception and the moments of the tokens from a batch (any leading dims)."""
        for index, rows in body_rows(body):
            x = observation["proprio"]
            self.norm.update(x if rows is None else x[rows], index)
        tokens = self.history(observation, body)
        if "previous_action" in observation:
            self.moments.update("past_action", tokens[..., 0, :])
        self.moments.update("observation", tokens[..., 1, :])
        self.moments.update("slot", self.slot)
        self.moments.count += 1
