"""A policy for other bodies: what it knows of a body goes with the body, and a new one finds the same trunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toddle.core.types import BodySpec, Observation
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

SMALL = BodySpec(name="s", proprio=3, action=2, dt=0.05)
WIDE = BodySpec(name="w", proprio=7, action=5, dt=0.05)
NEW = BodySpec(name="n", proprio=9, action=6, dt=0.05)


def _causal() -> CausalPolicy:
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=16)
    expert = ExpertConfig(trunk=trunk, bodies=(SMALL, WIDE), horizon=2, executed=2, window=1)
    policy = CausalPolicy(CausalConfig(expert=expert))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in policy.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    for body, spec in enumerate((SMALL, WIDE)):
        policy.update_normaliser(_seen(spec, body, generator))
    return policy


def _seen(spec: BodySpec, body: int, generator: torch.Generator | None = None) -> Observation:
    drawn: Any = {
        "proprio": 3.0 * torch.rand(2, 4, spec.proprio, generator=generator) + 1.0,
        "body": torch.full((2, 4), body),
        "previous_action": torch.zeros(2, 4, 2 * spec.action),
        "first": torch.ones(2, 4, dtype=torch.bool),
    }
    return drawn


def _means(policy: Any, spec: BodySpec, body: int) -> Tensor:
    found: Tensor = policy.mean(_seen(spec, body, torch.Generator().manual_seed(1)))
    return found[..., : spec.action].detach()


def test_a_known_body_acts_as_before_wherever_it_stands() -> None:
    policy = _causal()
    for bodies in ((WIDE,), (SMALL,), (WIDE, SMALL), (NEW, WIDE), (SMALL, WIDE, NEW)):
        other = policy.with_bodies(bodies)
        for index, spec in enumerate(bodies):
            if spec is not NEW:
                own = (SMALL, WIDE).index(spec)
                torch.testing.assert_close(_means(other, spec, index), _means(policy, spec, own))
                spread = other.log_std[index, :, : spec.action]
                torch.testing.assert_close(spread, policy.log_std[own, :, : spec.action])
    assert policy.with_bodies((SMALL, WIDE)) is policy


def test_a_new_body_finds_the_trunk_and_has_learned_nothing_of_its_own() -> None:
    policy = _causal()
    other = policy.with_bodies((NEW,))
    before = policy.state_dict()
    kept = {name for name, value in other.state_dict().items() if name in before and torch.equal(value, before[name])}
    assert {name for name in other.state_dict() if ".trunk." in name or name.startswith("goals.")} <= kept
    assert not any(".mlps.n." in name for name in kept)
    assert (other.log_std == policy.config.log_std).all() and (other.expert.tokens.norm.count == 0).all()


def test_a_gaussian_has_a_network_a_body() -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(SMALL, WIDE), hidden=(8,)))
    with torch.no_grad():
        for value in policy.parameters():
            value.normal_()
    other, proprio = policy.with_bodies((WIDE,)), _seen(WIDE, 1)["proprio"][0]
    asked: Any = [{"proprio": proprio, "body": torch.full((4,), body)} for body in (0, 1)]
    said = [one.act(seen, deterministic=True)[0].action for one, seen in zip((other, policy), asked, strict=True)]
    torch.testing.assert_close(*said)
    with pytest.raises(ValueError, match="not in tuple"):
        policy.with_bodies((NEW,))
