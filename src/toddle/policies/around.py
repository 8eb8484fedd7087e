"""What policies share that hold another one as it is and ask it at every decision: guided, exploring, recalling, ..."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.protocols import Memory
from toddle.core.types import Decision, Observation
from toddle.models.q_ensemble import QEnsemble

__all__ = ["Around", "candidates", "check_alone", "check_critic", "decided", "repeated", "seen_width", "state_of"]


class Around(nn.Module):
    """A policy around `base`, which has no memory of more than the decision; abstract (`act` is the subclass's)."""

    kind: ClassVar[str] = "around"
    config: Any = None

    def __init__(self, base: Any, *, features: bool = True, field: str = "steer") -> None:
        """features: of a VLA, its backbone's features must be kept.  Raises InputError, naming `field`."""
        super().__init__()
        if features and base.cameras and not base.context_width:
            raise problem(field, "a policy of states, or a VLA whose backbone is frozen", f"kind '{base.kind}'")
        check_alone(base, field)
        self.base = base
        self.horizon, self.sequential = base.horizon, base.sequential
        self.bodies, self.cameras = base.bodies, base.cameras

    def initial_memory(self, batch: int) -> Memory:
        """Return what is remembered: nothing, unless a subclass says otherwise."""
        return None

    def encode(self, observation: Observation) -> Observation:
        """Return what the policy keeps of an observation."""
        seen: Observation = self.base.encode(observation)
        return seen


def check_alone(base: Any, field: str) -> None:
    """Raise InputError for a policy that remembers more than the decision."""
    if base.initial_memory(1) is not None and not (base.cameras and base.window_sizes[1] == 1):
        raise problem(field, "a policy without a memory", f"kind '{base.kind}'")


def check_critic(critic: QEnsemble, base: Any, field: str) -> None:
    """Raise InputError for a critic of other numbers than the policy's, or of actions that it does not execute."""
    (seen, chunk), wide = critic.sizes, seen_width(base)
    for body in base.bodies:
        if seen != wide or chunk % body.action or chunk > base.horizon * body.action:
            wanted = f"one of {wide} numbers and of up to {base.horizon} actions of {body.action}"
            raise problem(field, wanted, f"{seen} numbers and {chunk} of actions")


def seen_width(base: Any) -> int:
    """Return how many numbers `state_of` has of what a policy sees, by its first body."""
    return int(base.bodies[0].proprio + (base.context_width if base.cameras else 0))


def decided(base: Any, seen: Observation, generator: torch.Generator | None, deterministic: bool) -> Decision:
    """Return a policy's own decision at observations (B, ...), encoded or not, remembering nothing."""
    memory = base.initial_memory(len(seen["proprio"]))
    decision: Decision = base.act(seen, memory, generator=generator, deterministic=deterministic)[0]
    return decision


def state_of(seen: Observation) -> Tensor:
    """Return what critics see of encoded observations (..., ...): the state, and of a VLA the mean of its tokens."""
    if "context" not in seen:
        return seen["proprio"]
    context, mask = seen["context"].float(), seen["context_mask"][..., None].float()
    return torch.cat([seen["proprio"].float(), (context * mask).sum(-2) / mask.sum(-2).clamp(min=1.0)], -1)


def repeated(observation: Observation, count: int) -> Observation:
    """Return every row `count` times, world by world; sentences are left out, which encoded observations do without."""
    rows: Any = {
        key: value.repeat_interleave(count, 0) for key, value in observation.items() if isinstance(value, Tensor)
    }
    found: Observation = rows
    return found


def candidates(
    base: Any, seen: Observation, count: int, generator: torch.Generator | None, *, width: float, deterministic: bool
) -> Decision:
    """Return `count` decisions (B, K, ...) of a policy, the most likely one first where it is asked for.

    width: draws are taken nearer to the most likely action by this share; below 1 they have no chain.
    """
    worlds = len(seen["proprio"])
    own = decided(base, seen, generator, True) if deterministic else None
    drawn = decided(base, repeated(seen, count - (own is not None)), generator, False)
    parts = {}
    for name in ("action", "chain", "log_prob"):
        rest = getattr(drawn, name).unflatten(0, (worlds, -1))
        parts[name] = rest if own is None else torch.cat([getattr(own, name)[:, None], rest], 1)
    if width == 1.0:
        return Decision(**parts)
    centre = (own or base.act(seen, deterministic=True)[0]).action[:, None]
    action = centre + width * (parts["action"] - centre)
    return Decision(action, action.new_zeros(worlds, count, 0), action.new_zeros(worlds, count, 0))
