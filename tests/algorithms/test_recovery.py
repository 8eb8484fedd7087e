"""Recovery RL: risk on a chain whose answers are powers, who acts at which threshold, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from toddle.algorithms.recovery import RecoveryConfig, RecoveryRL
from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig, SoftActorCritic
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.replay import Decisions, Replay, Store
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.recovering import RecoveringConfig, RecoveringPolicy
from toddle.policies.squashed_gaussian import SquashedGaussianPolicy

SMALL: dict[str, Any] = {"batch": 32, "learn_after": 40, "rounds": 14, "critic_hidden": (32,)}


def learner(threshold: float, *, plain: bool = False, cost: str = "contact", **settings: Any) -> SoftActorCritic:
    env = make_env("tabletop/push-cube", 4, seed=0, cost=cost)
    made = RecoveringConfig(body=env.body_spec, hidden=(32,), risk_hidden=(32,), threshold=threshold)
    policy = SquashedGaussianPolicy(made) if plain else RecoveringPolicy(made)
    collector = Collector(env, CollectConfig(length=1, scale_rewards=False), seed=0, critic_sees=False)
    replay = Replay({ONLINE: Store(1000, *policy.state_sizes)}, {ONLINE: 1.0})
    if plain:
        return SoftActorCritic(policy, collector, replay, SACConfig(**SMALL), seed=0)
    assert isinstance(policy, RecoveringPolicy)
    given = RecoveryConfig(first=10, **settings)
    return RecoveryRL(policy, collector, replay, SACConfig(**SMALL), settings=given, seed=0)


def test_risk_on_a_chain_is_a_power_of_the_discount() -> None:
    """States 0 to 4 lead to the next, from 4 to a violation: seen from 4 - d it is d decisions away."""
    body = BodySpec(name="chain", proprio=5, action=1, dt=0.1)
    policy = RecoveringPolicy(RecoveringConfig(body=body, hidden=(8,), risk_hidden=(32,)))
    made: Any = RecoveryRL.__new__(RecoveryRL)
    env = make_env("dots/one", 1, cost="own")
    replay = Replay({ONLINE: Store(10, 5, 1)}, {ONLINE: 1.0})
    collector = Collector(env, CollectConfig(length=1), seed=0, critic_sees=False)
    settings = RecoveryConfig(discount=0.5, learning_rate=1e-2, target_rate=0.05)
    made.__init__(policy, collector, replay, SACConfig(critic_hidden=(8,)), settings=settings, seed=0)
    states, last = torch.eye(5), torch.tensor([0.0, 0, 0, 0, 1])
    batch = Decisions(states, torch.zeros(5, 1), states.roll(-1, 0), last, 0.5 * (1 - last))
    for _ in range(400):
        noisy = replace(batch, action=2 * torch.rand(5, 1, generator=made.noise) - 1)
        made.update_risk(noisy)
    found = policy.riskiness(states, torch.zeros(5, 1))
    assert torch.allclose(found, 0.5 ** torch.tensor([4.0, 3, 2, 1, 0]), atol=0.03), found


@pytest.mark.slow
def test_at_threshold_one_it_is_sac_to_the_bit() -> None:
    ours, plain = learner(1.0), learner(1.0, plain=True)
    for _ in range(2):
        ours.step()
        plain.step()
    assert isinstance(ours.policy, RecoveringPolicy) and bool(ours.policy.armed)
    for name, value in plain.policy.actor.state_dict().items():
        assert torch.equal(ours.policy.actor.state_dict()[name], value), name


def test_at_threshold_zero_the_recovery_always_acts_and_both_actions_are_kept() -> None:
    made: Any = learner(0.0)
    assert made.step()["recovery/acted"] < 1.0  # it knew nothing at first
    metrics = made.step()
    assert metrics["recovery/acted"] == 1.0 and 0.0 < metrics["recovery/violations"] < 1.0
    risks = sum(len(store) for store in made.kept.values())
    assert risks == len(made.replay.stores[ONLINE]) == 4 * 28
    safe = made.kept["safe"].at(torch.tensor([len(made.kept["safe"]) - 1]))
    assert torch.allclose(made.cautious.recover(safe.observation), safe.action, atol=0.05)  # executed, a little before
    proposed = made.replay.stores[ONLINE].at(torch.arange(108, 112))
    assert (made.cautious.recover(proposed.observation) - proposed.action).abs().amax() > 0.1


def test_without_costs_nothing_can_be_risked() -> None:
    with pytest.raises(InputError, match="cost: expected an environment that counts costs"):
        learner(0.5, cost="").step()
