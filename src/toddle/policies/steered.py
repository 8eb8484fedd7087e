"""SteeredPolicy: a small actor over a frozen VLA that acts by a flow; the actor learns, the VLA never changes.

    mode noise     the actor says the noise that the VLA's flow begins at (DSRL, Wagenmaker et al. 2025,
                   arXiv 2506.15799)
    mode residual  the VLA's action plus `scale` times what the actor says (Policy Decorator, Yuan et al. 2024, arXiv
                   2412.13630; PLD, Xiao et al. 2025, arXiv 2511.00091)

The actor sees what the VLA's frozen backbone says, pooled, with proprioception, and in mode residual the VLA's action
as it was drawn for this decision.  Before anything is learned (`share` 0) the policy is the VLA, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import LogStd, NonNegative, Seed, Size, SizeOrNone
from toddle.core.protocols import Memory, Steerable
from toddle.core.seeding import rand, randn, torch_generator
from toddle.core.types import Decision, FeatureSource, Observation
from toddle.models.squashed_actor import SquashedActor
from toddle.policies.around import repeated
from toddle.policies.hastened import hastened

__all__ = ["SteeredConfig", "SteeredPolicy"]


@config
class SteeredConfig:
    """A small actor over a frozen VLA."""

    mode: Literal["noise", "residual"] = "noise"
    """What the actor says: the noise the VLA's flow begins at, or what is added to the VLA's action."""
    scale: NonNegative = 1.5
    """noise: m, each number of the noise is within [-m, m].  residual: s, added is s times a number in [-1, 1]."""
    repeat: bool = False
    """noise: one vector for all actions of a chunk, A numbers in place of H A; the VLA alone is then drawn like this
    too, which it was not trained with."""
    steps: SizeOrNone = 0
    """Euler steps from noise to the VLA's chunk; 0: the VLA's own number."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the actor's hidden layers."""
    log_std: LogStd = 0.0
    """Logarithm of the actor's standard deviation before its tanh, at the start."""
    seed: Seed = 0
    """Seed of the actor's weights."""


class SteeredPolicy(nn.Module):
    """A frozen flow VLA (`base`, stored as it is in a folder of its own) and the actor that steers it.

    `share`, a buffer, is the probability that the actor has its say in a decision that is drawn, else the VLA acts
    alone; where no exploring is asked the actor always has, unless `share` is 0.  The VLA begins at drawn noise always.
    A decision's chain (B, N) is what the actor said, in [-1, 1], or what it would have had to say for what the VLA did
    alone (residual: 0; noise: w / m, which may lie beyond 1); its state (B, O) is what the actor saw, and with `draws`
    K above 0 (mode noise) after that the chunk, and K draws of what the VLA does alone, each its w / m and its chunk.
    """

    kind: ClassVar[str] = "steered"
    sequential = False
    share: Tensor

    def __init__(self, config: SteeredConfig, base: Any, base_meta: Mapping[str, Any] | None = None) -> None:
        """Hold `base` (`core.protocols.Steerable`), which is frozen; `base_meta` is what its folder says of it.

        Raises InputError for a VLA that does not act by a flow, has a history or several bodies.
        """
        super().__init__()
        if not isinstance(base, Steerable):
            raise problem("policy", "a VLA that acts by a flow (flow_vla, pi0, pi05, smolvla)", f"kind '{base.kind}'")
        if base.window_sizes[1] > 1:
            raise problem("policy", "a VLA without history", f"one of {base.window_sizes[1]} decisions")
        if len(base.bodies) > 1:
            raise problem("policy", "a VLA of one body", ", ".join(body.name for body in base.bodies))
        self.config, self.base_meta = config, dict(base_meta or {})
        self._base: list[Any] = [base.requires_grad_(False).train(False)]  # in a list: its weights are not this one's
        self.horizon, self.bodies, self.cameras = base.horizon, base.bodies, base.cameras
        self.register_buffer("share", torch.zeros(()))
        self.alone: Tensor | None = None  # (B,) bool: the worlds in which the VLA makes the next decision alone
        self.seen: Tensor | None = None  # (B, O), what the actor saw in the last decision
        self.draws = 0
        self.actor = SquashedActor(
            *self.state_sizes,
            hidden=config.hidden,
            log_std=config.log_std,
            generator=torch_generator(config.seed, "steered policy"),
        )
        with torch.no_grad():  # it begins by saying nearly nothing, whatever it sees
            self.actor.last.weight.mul_(0.01)

    @classmethod
    def from_config(cls, config: SteeredConfig, base: Any, base_meta: Mapping[str, Any]) -> Self:
        """Build a policy around a loaded base, as `policies.store` does."""
        return cls(config, base, base_meta)

    @property
    def base(self) -> Any:
        """The frozen VLA."""
        return self._base[0]

    # ---- what the actor sees and says --------------------------------------------------------------------------------
    @property
    def state_sizes(self) -> tuple[int, int]:
        """O, numbers that the actor sees (and of draws, where there are any), and N, numbers that it says."""
        (length, width), chunk = self.base.flow_shape, self.chunk_numbers
        if self.config.mode == "noise":
            said = width if self.config.repeat else length * width
            return self.base.summary_width + (chunk + self.draws * (said + chunk) if self.draws else 0), said
        return self.base.summary_width + chunk, chunk

    @property
    def chunk_numbers(self) -> int:
        """C, numbers of the chunk that is executed."""
        return int(self.horizon * self.bodies[0].action)

    def parted(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return of states (B, O) with draws what the actor saw (B, D), the chunk (B, C), and the draws' w / m
        (B, K, N) and chunks (B, K, C)."""
        seen, chunk = self.base.summary_width, self.chunk_numbers
        draws = state[:, seen + chunk :].unflatten(-1, (self.draws, -1))
        return state[:, :seen], state[:, seen : seen + chunk], draws[..., :-chunk], draws[..., -chunk:]

    def state(self, observation: Observation) -> Tensor:
        """Return what the actor would see (B, O) if the flow began at zero noise."""
        summary: Tensor = self.base.summary(observation)
        if self.config.mode == "noise":
            return summary
        zero = summary.new_zeros(len(summary), *self.base.flow_shape)
        action, _ = self.base.chunk_from(observation, zero, steps=self.config.steps or None)
        return torch.cat([summary, action.flatten(1)], -1)

    def _noise(self, batch: int, generator: torch.Generator | None) -> Tensor:
        """Draw the noise (B, H, A) with which the VLA acts alone."""
        length, width = self.base.flow_shape
        repeated = self.config.mode == "noise" and self.config.repeat
        drawn = randn((batch, 1 if repeated else length, width), generator, self.share.device)
        return drawn.expand(batch, length, width)

    def _decide(
        self, state: Tensor, alone: Tensor, generator: torch.Generator | None, deterministic: bool
    ) -> tuple[Tensor, Tensor]:
        """Return what is said (B, N), the actor's or `alone` where the VLA acts alone, and where it is the actor's."""
        share, shape = float(self.share), alone.shape
        own = torch.full((len(alone), 1), share > 0.0, device=alone.device)
        if not deterministic and 0.0 < share < 1.0:
            own = rand((len(alone), 1), generator, alone.device) < share
        if self.alone is not None:
            own = own & ~self.alone[:, None]
        if not own.any():  # nothing is drawn for an actor that has no say
            return alone, own
        noise = torch.zeros(shape, device=alone.device) if deterministic else randn(shape, generator, alone.device)
        said, _ = self.actor.sample(state, noise)
        return torch.where(own, said, alone), own

    # ---- Policy ------------------------------------------------------------------------------------------------------
    def initial_memory(self, batch: int) -> Memory:
        """Return the VLA's empty memory."""
        return self.base.initial_memory(batch)

    def encode(self, observation: Observation) -> Observation:
        """Return the observation with the frozen backbone's features in place of pictures and sentence."""
        seen: Observation = self.base.encode(observation)
        return seen

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations; `deterministic`: the actor's most likely numbers.

        Actions of mode residual are not clipped: the environment's bounds are of the sum.
        """
        seen, scale = self.encode(observation), self.config.scale
        noise = self._noise(len(seen["proprio"]), generator)
        summary, steps = self.base.summary(seen), self.config.steps or None
        if self.config.mode == "residual":
            action, memory = self.base.chunk_from(seen, noise, memory, steps=steps)
            state = torch.cat([summary, action.flatten(1)], -1)
            said, own = self._decide(state, torch.zeros_like(action).flatten(1), generator, deterministic)
            moved = action + scale * said.view_as(action)
            action = torch.where(own[..., None], moved, action)
        else:
            state = summary
            alone = noise[:, :1] if self.config.repeat else noise
            said, own = self._decide(state, alone.flatten(1) / (scale or 1.0), generator, deterministic)
            steered = (scale * said).view_as(alone).expand_as(noise)
            begin = torch.where(own[..., None], steered, noise)
            if self.draws:
                action, drawn = self._with_draws(seen, begin, generator)
                state = torch.cat([summary, action.flatten(1), drawn], -1)
            else:
                action, memory = self.base.chunk_from(seen, begin, memory, steps=steps)
        self.seen = state
        return Decision(action, said, action.new_zeros(len(action), 0), state=state), memory

    def _with_draws(self, seen: Observation, begin: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return the chunks (B, H_exec, A) from noise `begin` (B, H, A), and K draws of each world (B, K (N + C)); the
        VLA, which has no history, is asked once."""
        count, batch = 1 + self.draws, len(begin)
        noise = torch.stack([begin, *(self._noise(batch, generator) for _ in range(self.draws))], 1)  # (B, 1 + K, H, A)
        memory = self.base.initial_memory(batch * count)
        chunks, _ = self.base.chunk_from(
            repeated(seen, count), noise.flatten(0, 1), memory, steps=self.config.steps or None
        )
        chunks = chunks.unflatten(0, (batch, count))
        said = noise[:, 1:, :1] if self.config.repeat else noise[:, 1:]
        drawn = torch.cat([said.flatten(2) / (self.config.scale or 1.0), chunks[:, 1:].flatten(2)], -1)
        return chunks[:, 0], drawn.flatten(1)

    def hasten(self, how: Any, dtype: torch.dtype) -> None:
        """Let the VLA act by tables.  Raises InputError where it has none."""
        hastened(self.base, how, bf16=dtype == torch.bfloat16)

    # ---- what is the VLA's -------------------------------------------------------------------------------------------
    @property
    def features(self) -> FeatureSource | None:
        """What makes the VLA's features of pictures and sentences."""
        found: FeatureSource | None = self.base.features
        return found

    @property
    def context_width(self) -> int:
        """Numbers of a token of the context that `encode` keeps."""
        return int(self.base.context_width)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the VLA along when the policy moves to another device."""
        self.base._apply(fn)
        super()._apply(fn, recurse)
        return self
