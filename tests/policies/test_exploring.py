"""Exploring policies: with nothing to disturb they are the policy, and what they disturb is what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.test_guided import BODY, critic, observation
from tests.policies.test_guided import policy as gaussian
from tests.policies.test_vla import awake
from tests.policies.test_vla import observation as glimpse
from tests.policies.tiny_vla import tiny_backbone, tiny_token_vla, tiny_vla

from toddle.core.errors import InputError
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.exploring import NoisyActions, NoisyCondition, Provoking
from toddle.policies.links import DiffusionConfig
from toddle.policies.vla import FlowVLA


def denoising() -> DenoisingPolicy:
    settings: dict[str, Any] = {"horizon": 2, "executed": 1, "network": MlpDenoiserConfig(width=16)}
    settings["process"] = DiffusionConfig(train_steps=8, ddim_steps=0)
    made = DenoisingPolicy(DenoisingConfig(body=BODY, **settings)).train(False)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return made


def acted(policy: Any, seen: Any, **options: Any) -> torch.Tensor:
    memory = policy.initial_memory(len(seen["proprio"]))
    return policy.act(seen, memory, generator=torch.Generator().manual_seed(7), **options)[0].action


@pytest.mark.parametrize("kind", ["gaussian", "denoising", "vla"])
def test_nothing_disturbed_is_the_policy_bit_for_bit(kind: str) -> None:
    base: Any = {"gaussian": gaussian, "denoising": denoising, "vla": lambda: awake(tiny_vla())}[kind]()
    seen = glimpse() if kind == "vla" else observation(5)
    for exploring in (NoisyActions(base, 0.0), NoisyCondition(base, 0.0)):
        assert torch.equal(acted(exploring, seen), acted(base, seen)), type(exploring).__name__


def test_actions_noise_has_its_deviation_and_leaves_what_is_asked_for_in_the_middle() -> None:
    base, seen = gaussian(), observation(4000)
    off = acted(NoisyActions(base, 0.3), seen, deterministic=True) - acted(base, seen, deterministic=True)
    assert off.std() == pytest.approx(0.3, rel=0.05) and off.mean() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_chain_sees_the_noise_of_each_of_its_steps_and_none_afterwards(when: Any) -> None:
    base, told = denoising(), []
    exploring = NoisyCondition(base, 0.5, when)
    made = exploring._disturbance(8, torch.Generator().manual_seed(0))
    told = [float(made(step, torch.zeros(20_000, 1)).std()) for step in range(8)]
    expected = np.linspace(1.0, 1 / 8, 8) if when == "early" else np.linspace(1 / 8, 1.0, 8)
    assert told == pytest.approx(0.5 * expected, rel=0.03)
    seen = observation(5)
    before = acted(base, seen)
    assert (acted(exploring, seen) - before).abs().max() > 1e-3 and torch.equal(acted(base, seen), before)


def test_a_flow_from_disturbed_features_tends_to_its_own_as_the_noise_goes() -> None:
    base, seen = awake(tiny_vla()), glimpse()
    own = acted(base, seen)
    near, far = (acted(NoisyCondition(base, size), seen) for size in (1e-5, 1.0))
    assert torch.allclose(near, own, atol=1e-4) and (far - own).abs().max() > 1e-2
    with pytest.raises(InputError, match="acts by a flow"):
        NoisyCondition(tiny_token_vla(), 0.1)
    previous = FlowVLA(replace(tiny_vla().config, source="previous"), tiny_backbone())
    with pytest.raises(InputError, match="acts by a flow from noise"):
        NoisyCondition(previous, 0.1)


def provoked(slope: float, **options: Any) -> Provoking:
    settings = {"candidates": 10, "length": 2, "within": 1} | options
    return Provoking(gaussian(), critic(slope), **settings)


def test_the_worst_of_likely_draws_is_taken_and_the_control_takes_any() -> None:
    # of ten normal draws without the least likely one, the least: by numpy's own draws
    drawn = np.random.default_rng(0).normal(size=(200_000, 10))
    drawn[np.arange(len(drawn)), np.abs(drawn).argmax(1)] = np.inf
    expected, std = drawn.min(1).mean(), np.exp(-2.0)
    seen = observation(4000)
    mean = acted(gaussian(), seen, deterministic=True)
    for slope, control, value in ((1.0, False, expected), (-1.0, False, -expected), (1.0, True, 0.0)):
        off = (acted(provoked(slope, control=control), seen, deterministic=True) - mean).mean() / std
        assert off == pytest.approx(value, abs=0.06)
    base = gaussian()
    alone = Provoking(base, critic(), candidates=1, length=2, within=1)
    assert torch.equal(acted(alone, seen), acted(base, seen))


def test_each_episode_is_led_astray_for_so_many_decisions_in_a_row() -> None:
    exploring, seen = provoked(1.0, length=3, within=4), observation(200)
    memory, generator, told = exploring.initial_memory(200), torch.Generator().manual_seed(0), []
    for step in range(10):
        seen["first"] = torch.full((200,), step == 0)
        _, memory = exploring.act(seen, memory, generator=generator, deterministic=True)
        told.append(exploring.astray)
    astray = torch.stack(told)  # type: ignore[arg-type]
    first = astray.float().argmax(0)
    assert torch.equal(astray.sum(0), torch.full((200,), 3)) and set(first.tolist()) == {0, 1, 2, 3}
    assert all(bool(astray[at : at + 3, world].all()) for world, at in enumerate(first.tolist()))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="critic: expected one of 3 numbers"):
        Provoking(gaussian(), critic(actions=2), candidates=8, length=1, within=1)
    with pytest.raises(InputError, match="a policy of states"):
        Provoking(tiny_token_vla(), critic(), candidates=8, length=1, within=1)
