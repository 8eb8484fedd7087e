"""The flow of a policy at one decision, several chunks at once: what it sees is read once, whatever their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toddle.core.protocols import Flowing
from toddle.core.types import Observation
from toddle.policies.denoising import DenoisingPolicy
from toddle.policies.denoising_network import rows_of
from toddle.policies.links import FlowLinks

__all__ = ["OpenFlow", "flows", "integrate", "open_flow", "shifted"]


class OpenFlow(NamedTuple):
    """A decision of B worlds, L chunks each."""

    velocity: Callable[[Tensor, Tensor], Tensor]
    """Of chunks x (B, L, H, A) at times tau (B, L): (B, L, H, A)."""
    shape: tuple[int, int]
    """(H, A) of what flows."""
    steps: int
    """Euler steps that the policy makes."""
    from_zero: bool
    """Whether it begins at zero noise where its most likely chunk is asked for."""
    executed: Callable[[Tensor], Tensor]
    """The actions (B, L, H_exec, A) in the environment's units of chunks (B, L, H, A)."""


def flows(policy: Any) -> bool:
    """Return whether `open_flow` can open the policy: a VLA without history, or a policy of states, that flows
    from noise."""
    if isinstance(policy, DenoisingPolicy):
        return isinstance(policy.links, FlowLinks) and policy.base is None
    return isinstance(policy, Flowing) and policy.window_sizes[1] == 1 and policy.from_noise


def open_flow(policy: Any, seen: Observation) -> OpenFlow:
    """Open a decision at encoded observations (B, ...) of a policy that `flows`."""
    if isinstance(policy, DenoisingPolicy):
        features = policy._features(seen)
        shared = policy.tuned.encode(rows_of(seen), features, None)
        settings = policy.config

        def of_states(x: Tensor, tau: Tensor) -> Tensor:
            return policy.tuned.predict(shared, x, tau)

        shape = settings.horizon, settings.body.action
        return OpenFlow(of_states, shape, policy.links.steps, False, lambda x: x[..., : policy.horizon, :])
    velocity, _ = policy.open_flow(seen, None)
    kept: Any = {name: seen[name] for name in ("proprio", "body") if name in seen}

    def executed(x: Tensor) -> Tensor:
        rows = {name: value.repeat_interleave(x.shape[1], 0) for name, value in kept.items()}
        action: Tensor = policy.executed(x.flatten(0, 1), rows).unflatten(0, x.shape[:2])
        return action

    return OpenFlow(velocity, policy.flow_shape, policy.config.steps, policy.config.start == "zero", executed)


def integrate(
    flow: OpenFlow,
    x: Tensor,
    begin: Tensor,
    *,
    push: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the chunks (B, L, H, A) that the flow makes of x (B, L, H, A) from times `begin` (B, L) to 1.

    As many steps as the policy makes, or their share of what is left (at least one).  push(x1, tau): added to the
    velocity at every step but the last, where x1 (B, L, H, A) are the ends in sight.
    """
    left = 1.0 - begin
    steps = max(1, round(flow.steps * float(left.max())))
    for step in range(steps):
        tau = begin + left * step / steps
        velocity = flow.velocity(x, tau)
        if push is not None and step < steps - 1:
            velocity = velocity + push(x + (1.0 - tau)[..., None, None] * velocity, tau)
        x = x + (left / steps)[..., None, None] * velocity
    return x


def shifted(chunk: Tensor, age: Tensor) -> Tensor:
    """Return chunks (B, H, A) from their action `age` (B,) on; their last one is repeated."""
    at = (torch.arange(chunk.shape[1], device=chunk.device) + age[:, None]).clamp(max=chunk.shape[1] - 1)
    return chunk.gather(1, at[..., None].expand_as(chunk))
