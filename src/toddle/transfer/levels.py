"""How much of the RL function a conversion kept: levels A, B, C and independence of tau (docs/conversion.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toddle.core.types import Observation
from toddle.policies.causal import CausalPolicy
from toddle.transfer.convert import Conversion
from toddle.transfer.lesion import draw_observation

__all__ = ["Level", "measure_levels"]

TAUS = (0.0, 0.37, 1.0)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One property: the largest deviation found, and up to which it counts as kept (None: not promised here)."""

    name: str
    what: str
    deviation: float
    tolerance: float | None

    @property
    def kept(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return self.tolerance is not None and self.deviation <= self.tolerance


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def measure_levels(policy: CausalPolicy, made: Conversion, *, seed: int = 0, steps: int = 10) -> list[Level]:
    """Measure levels A, B, C and tau on random tokens, observations, noise and VLM tokens.

    steps: Euler steps of the sample of level C.  The policy must be in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    mode, modulation = made.config.trunk, made.config.trunk.modulation
    intact = modulation != "dit_literal" and not made.removed
    grown = made.width_factor > 1 or bool(mode.fresh) or mode.mlp_ratio != policy.config.expert.trunk.mlp_ratio
    exact = 1e-5 if grown else 0.0
    levels = [
        Level(
            name="A",
            what="trunk output for any tokens and tau",
            deviation=_level_a(policy, made, generator),
            tolerance=exact if intact else None,
        ),
    ]
    observation = draw_observation(policy, 6, 3, generator)
    drift, history, tau = _level_b(policy, made, observation, generator)
    encoders = [status for name, status in made.status.items() if name.startswith(("tokens.obs", "tokens.past"))]
    same_inputs = made.config.window == policy.config.expert.window
    same_inputs = same_inputs and not any(status.startswith("new") for status in encoders)
    # An adapter that says something from the start, or a fresh decoder, is not the RL policy's function any more.
    silent = made.status["adapter.1.weight"] == "new: 0" or "cross" not in policy.config.expert.trunk.kinds
    levels += [
        Level(name="B", what="history tokens under other noisy actions", deviation=drift, tolerance=0.0),
        Level(
            name="B",
            what="history tokens against the RL policy's",
            deviation=history,
            tolerance=max(exact, 5e-6) if same_inputs and silent and not made.removed else None,
        ),
        Level(name="tau", what="output at other flow times", deviation=tau, tolerance=0.0),
    ]
    same_slots = made.config.slot_mask == policy.config.expert.slot_mask or float(made.expert.future_bias) <= -40
    kept = silent and not any(made.status[name].startswith("new") for name in made.status if name.startswith("out."))
    whole = same_inputs and intact and made.config.head == "endpoint" and same_slots and kept
    if made.config.head == "endpoint" and same_inputs:
        deviation = _level_c(policy, made, observation, generator, steps)
        levels.append(
            Level(
                name="C",
                what=f"flow sample ({steps} steps) against the RL chunk under the NULL goal",
                deviation=deviation,
                tolerance=1e-5 if whole else None,
            )
        )
    return levels


def _level_a(policy: CausalPolicy, made: Conversion, generator: torch.Generator) -> float:
    d, width = policy.config.expert.trunk.width, policy.config.expert.trunk.context_width
    x = torch.randn(4, 12, d, generator=generator)
    context = None
    if "cross" in made.config.trunk.kinds or made.config.trunk.inserted:
        context = torch.randn(4, 5, made.config.trunk.context_width, generator=generator)
    own = context if "cross" in policy.config.expert.trunk.kinds else torch.zeros(4, 5, width)
    times = torch.rand(4, 12, generator=generator, dtype=torch.float64).sort(1).values
    mask = torch.zeros(12, 12).masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), -math.inf)[None, None]
    reference = policy.expert.trunk(x, times, mask, own)
    factor = made.width_factor
    wide = x.repeat(1, 1, factor)
    deviations = []
    for tau in TAUS:
        got = made.expert.trunk(wide, times, mask, context, tau=torch.full((4,), tau))
        deviations.append(_difference(got, reference.repeat(1, 1, factor)))
    return max(deviations)


def _shape(made: Conversion, observation: Observation) -> tuple[int, int, int, int]:
    length, batch = observation["proprio"].shape[:2]
    return length, batch, made.config.horizon, made.config.action_width


def _vlm_context(made: Conversion, length: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    raw = torch.randn(length, batch, 7, made.vlm_width, generator=generator)
    return made.adapter(raw), torch.ones(length, batch, 7, dtype=torch.bool)


def _fit(made: Conversion, observation: Observation) -> Observation:
    """Cut or pad an observation to what the conversion's first body takes."""
    body, out = made.config.bodies[0], Observation(**observation)
    width = made.config.executed * body.action
    out["proprio"] = _resize(observation["proprio"], body.proprio)
    out["previous_action"] = _resize(observation["previous_action"], width)
    return out


def _resize(x: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, max(0, size - x.shape[-1])))[..., :size]


def _level_b(
    policy: CausalPolicy, made: Conversion, observation: Observation, generator: torch.Generator
) -> tuple[float, float, float]:
    """Return the history's drift under other noise, its distance from the RL policy's, the output's change with tau."""
    shape, seen = _shape(made, observation), _fit(made, observation)
    context, mask = _vlm_context(made, shape[0], shape[1], generator)
    outputs, histories = [], []
    noise = torch.randn(shape, generator=generator)
    for index, tau in enumerate(TAUS):
        noisy = noise if index < 2 else torch.randn(shape, generator=generator)
        raw, history = made.expert.forward_with_history(
            seen, context, mask, noisy, torch.full(shape[:2], tau), return_history=True
        )
        outputs.append(raw)
        histories.append(history)
    drift = max(_difference(history, histories[0]) for history in histories)
    dropped = torch.ones(shape[:2], dtype=torch.bool)
    goal, goal_mask = policy.goals(None, None, dropped, tuple(shape[:2]))
    _, reference = policy.expert.forward_with_history(observation, goal, goal_mask, return_history=True)
    distance = _difference(histories[0], reference.repeat(1, 1, 1, made.width_factor))
    return drift, distance, max(_difference(output, outputs[0]) for output in outputs)


def _level_c(
    policy: CausalPolicy, made: Conversion, observation: Observation, generator: torch.Generator, steps: int
) -> float:
    """Act through a segment with random VLM tokens and noise; compare each sampled chunk with the RL mean."""
    shape = _shape(made, observation)
    reference = policy.mean(observation, torch.ones(shape[:2], dtype=torch.bool), whole=True)[:, :, : shape[2]]
    cache, worst = made.expert.initial_cache(shape[1]), 0.0
    for t in range(shape[0]):
        now = Observation(**{key: value[t] for key, value in observation.items()})  # type: ignore[typeddict-item, index]
        context, mask = (part[0] for part in _vlm_context(made, 1, shape[1], generator))
        cache = made.expert.prefix(now, context, mask, cache)
        chunk = made.expert.sample(cache, torch.randn(shape[1:], generator=generator), steps)
        worst = max(worst, _difference(chunk, reference[t] * made.expert.action_mask[0]))
    return worst
