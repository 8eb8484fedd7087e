"""How much of a denoising policy's function its transfer kept: levels A, B, C (docs/denoising.md, Transfer)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.goal import GOAL_FEATURES
from toddle.core.types import Observation
from toddle.policies.denoising import DenoisingPolicy
from toddle.transfer.convert import Conversion
from toddle.transfer.levels import Level

__all__ = ["check_source", "measure_denoising_levels"]

TAUS = (0.0, 0.37, 1.0)
GROWN = 1e-5
SAMPLE, SAMPLE_OF_NOISE = 1e-5, 1e-4
"""Rounding a sample may differ by; noise predictions are divided by tau, 0.0025 at a diffusion's first step."""


def check_source(policy: DenoisingPolicy) -> None:
    """Raise InputError where the policy is no single trunk: then it is not one action expert."""
    policy.expert  # noqa: B018  (raises)
    if policy.base is not None:
        tuned, steps = len(policy.links.tuned), policy.links.steps
        raise problem(
            "source",
            f"one network for all {steps} steps (tuned_steps 0)",
            f"two, tuned_steps {tuned}",
            "pretrain without --denoising.tuned-steps",
        )


@torch.no_grad()
def measure_denoising_levels(policy: DenoisingPolicy, made: Conversion, *, seed: int = 0, steps: int) -> list[Level]:
    """Measure what the conversion changed, on random tokens, observations, noise and VLM tokens.

    steps: Euler steps of the sample of level C; exact where they are the policy's own (a diffusion's always are).
    """
    generator = torch.Generator().manual_seed(seed)
    trunk, source = made.config.trunk, policy.expert.config
    grown = made.width_factor > 1 or bool(trunk.fresh) or trunk.mlp_ratio != source.trunk.mlp_ratio
    encoders = [status for name, status in made.status.items() if name.startswith("tokens.obs")]
    same = not any(status.startswith("new") for status in encoders) and made.config.window == source.window
    same = same and made.config.horizon == source.horizon and made.config.bodies == source.bodies
    same = same and made.config.slot_mask == source.slot_mask
    whole = same and (bool(made.config.times) or steps == policy.links.steps)
    whole = whole and made.status["adapter.1.weight"] == "new: 0"
    whole = whole and not any(made.status[name].startswith("new") for name in made.status if name.startswith("out."))
    levels = [
        Level(
            name="A",
            what="trunk output for any tokens and tau",
            deviation=_level_a(policy, made, generator),
            tolerance=GROWN if grown else 0.0,
        ),
    ]
    if not same:
        return levels
    observation = _draw(policy, 64, generator)
    context, mask = _vlm_context(made, 64, generator)
    return [
        *levels,
        Level(
            name="B",
            what="history tokens under other noisy actions",
            deviation=_level_b(made, observation, context, mask, generator),
            tolerance=0.0,
        ),
        Level(
            name="C",
            what=f"sample ({len(made.config.times) or steps} steps) against the policy's, NULL goal",
            deviation=_level_c(policy, made, observation, (context, mask), generator, steps),
            tolerance=None if not whole else SAMPLE_OF_NOISE if made.config.times else SAMPLE,
        ),
    ]


def _draw(policy: DenoisingPolicy, batch: int, generator: torch.Generator) -> Observation:
    """Draw observations from the policy's own statistics."""
    norm, size = policy.expert.tokens.norm, policy.config.body.proprio
    noise = torch.randn(batch, size, generator=generator)
    scale, mean = norm.var[0, :size].sqrt().float(), norm.mean[0, :size].float()
    return Observation(proprio=noise * scale + mean)


def _vlm_context(made: Conversion, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    raw = torch.randn(batch, 7, made.vlm_width, generator=generator)
    return made.adapter(raw), torch.ones(batch, 7, dtype=torch.bool)


def _level_a(policy: DenoisingPolicy, made: Conversion, generator: torch.Generator) -> float:
    d, width, factor = policy.expert.config.trunk.width, made.config.trunk.context_width, made.width_factor
    x, context = torch.randn(4, 12, d, generator=generator), torch.randn(4, 5, width, generator=generator)
    times = torch.rand(4, 12, generator=generator, dtype=torch.float64).sort(1).values
    mask = torch.zeros(12, 12).masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), -math.inf)[None, None]
    worst = 0.0
    for tau in TAUS:
        at = torch.full((4,), tau)
        reference = policy.expert.trunk(x, times, mask, context, tau=at).repeat(1, 1, factor)
        got = made.expert.trunk(x.repeat(1, 1, factor), times, mask, context, tau=at)
        worst = max(worst, float((got - reference).abs().max()))
    return worst


def _level_b(
    made: Conversion, observation: Observation, context: Tensor, mask: Tensor, generator: torch.Generator
) -> float:
    rows = Observation(proprio=observation["proprio"][None])
    shape = (1, len(mask), made.config.horizon, made.config.action_width)
    histories = [
        made.expert.forward_with_history(
            rows,
            context[None],
            mask[None],
            torch.randn(shape, generator=generator),
            torch.full(shape[:2], tau),
            return_history=True,
        )[1]
        for tau in TAUS
    ]
    return max(float((history - histories[0]).abs().max()) for history in histories)


def _level_c(
    policy: DenoisingPolicy,
    made: Conversion,
    observation: Observation,
    context: tuple[Tensor, Tensor],
    generator: torch.Generator,
    steps: int,
) -> float:
    """Sample both from the same noise: the expert with random VLM tokens, the policy with the goal hidden."""
    batch = len(observation["proprio"])
    noise = torch.randn(batch, made.config.horizon, made.config.action_width, generator=generator)
    hidden = torch.ones(batch, dtype=torch.bool)
    goal = None if not policy.config.goal_width else {"goal": _no_goal(batch), "goal_mask": hidden[:, None]}
    seen = observation if goal is None else Observation(**observation, **goal)  # type: ignore[typeddict-item]
    reference = policy.integrate(seen, noise, hidden)
    cache = made.expert.prefix(observation, *context, made.expert.initial_cache(batch))
    return float((made.expert.sample(cache, noise, steps) - reference).abs().max())


def _no_goal(batch: int) -> Tensor:
    return torch.zeros(batch, 1, GOAL_FEATURES)
