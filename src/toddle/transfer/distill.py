"""Self-distillation after mode replace: the converted trunk learns back what the removed self-attention did.

Minimises |slots - slots of the frozen RL trunk|^2 on RL rollouts, with goal tokens in place of the VLM's, at random
noise and flow time (1,000 to 5,000 steps before SFT).  Modulation stays at zero deviation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from toddle.core.types import Observation
from toddle.maths.flow import sample_time
from toddle.policies.causal import CausalPolicy
from toddle.transfer.convert import Conversion

__all__ = ["distill"]


def distill(
    policy: CausalPolicy,
    made: Conversion,
    observation: Observation,
    *,
    steps: int,
    batch: int = 8,
    learning_rate: float = 3e-4,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the converted trunk for `steps` steps on segments (T, B, ...) of rollouts; return the loss of each step."""
    generator = torch.Generator().manual_seed(seed)
    trunk = [p for name, p in made.expert.trunk.named_parameters() if "modulation" not in name and "time." not in name]
    optimiser = torch.optim.Adam(trunk, lr=learning_rate)
    worlds, losses = observation["proprio"].shape[1], []
    horizon, width = made.config.horizon, made.config.action_width
    for step in range(steps):
        chosen = torch.randint(worlds, (min(batch, worlds),), generator=generator)
        part = Observation(**{key: value[:, chosen] for key, value in observation.items()})  # type: ignore[typeddict-item, index]
        shape = tuple(part["proprio"].shape[:2])
        with torch.no_grad():
            context, mask = policy.goals(part.get("goal"), part.get("goal_mask"), None, shape)
            target = policy.expert.forward_tokens(part, context, mask)[0][:, :, :horizon]
        noisy = torch.randn(*shape, horizon, width, generator=generator)
        slots = made.expert.forward_tokens(part, context, mask, noisy, sample_time(shape, generator))[0]
        loss = (slots - target).square().mean()
        for parameter in trunk:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trunk, 1.0)
        optimiser.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
    return losses
