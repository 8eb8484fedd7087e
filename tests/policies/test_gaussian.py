"""GaussianPolicy and ValueNet: densities, normalisation, goals as a set, several bodies, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal

from toddle.core import goal as token
from toddle.core.errors import InputError
from toddle.core.protocols import Critic, Scorable
from toddle.core.types import BodySpec, Observation
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, save_policy

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
LEGS = BodySpec(name="legs", proprio=4, action=2, dt=0.02)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def goal_observation(*lead: int, items: int = 4) -> Observation:
    goal = noise(*lead, items, token.GOAL_FEATURES, seed=1)
    goal[..., token.PART] = torch.randint(0, 9, (*lead, items), generator=torch.Generator().manual_seed(2))
    goal[..., token.WEIGHT] = 1.0 / items
    return {"proprio": noise(*lead, 5), "goal": goal, "goal_mask": torch.ones(*lead, items, dtype=torch.bool)}


def test_protocols() -> None:
    policy, critic = GaussianPolicy(GaussianConfig(bodies=(ARM,))), ValueNet(CriticConfig(inputs=(5,)))
    assert isinstance(policy, Scorable)
    assert isinstance(critic, Critic)


def test_act_and_score_agree_with_torch_distributions() -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(ARM,), horizon=2, log_std=-0.3, hidden=(8, 7)))
    observation: Observation = {"proprio": noise(11, 5)}
    decision, memory = policy.act(observation, generator=torch.Generator().manual_seed(0))
    assert memory is None
    assert decision.action.shape == (11, 2, 3)
    assert torch.equal(decision.action.flatten(1), decision.chain)
    mean = policy.act(observation, deterministic=True)[0].action.flatten(1)
    oracle = Independent(Normal(mean, torch.full((6,), -0.3).exp()), 1)
    assert torch.allclose(decision.log_prob[:, 0], oracle.log_prob(decision.chain), atol=1e-5)
    score = policy.score({"proprio": observation["proprio"][None]}, decision.chain[None])
    assert score.log_prob.shape == (1, 11, 1)
    assert torch.allclose(score.log_prob[0], decision.log_prob, atol=1e-5)
    assert torch.allclose(score.entropy[0], oracle.entropy())


def test_draws_have_the_stated_spread() -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(ARM,), log_std=-1.0, hidden=(8,)))
    chain = policy.act({"proprio": torch.zeros(20_000, 5)}, generator=torch.Generator().manual_seed(0))[0].chain
    assert chain.std(0).tolist() == pytest.approx([0.3679] * 3, rel=0.03)


def test_normalisation_changes_only_when_told() -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(ARM,)))
    observation: Observation = {"proprio": 100.0 + 5.0 * noise(50, 5)}
    first = policy.act(observation, deterministic=True)[0].action
    assert torch.equal(policy.act(observation, deterministic=True)[0].action, first)
    policy.update_normaliser(observation)
    second = policy.act(observation, deterministic=True)[0].action
    shifted: Observation = {"proprio": observation["proprio"] * 3.0 - 7.0}
    other = GaussianPolicy(GaussianConfig(bodies=(ARM,)))
    other.update_normaliser(shifted)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.allclose(other.act(shifted, deterministic=True)[0].action, second, atol=1e-3)  # units do not matter


def test_goal_items_are_a_set_and_masked_ones_do_not_count() -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(ARM,), goal_width=6))
    critic = ValueNet(CriticConfig(inputs=(5,), goal_width=6))
    observation = goal_observation(7)
    order = [2, 0, 3, 1]
    permuted: Observation = {**observation, "goal": observation["goal"][:, order]}
    mean, value = policy.act(observation, deterministic=True)[0].action, critic.value(observation)
    assert torch.allclose(policy.act(permuted, deterministic=True)[0].action, mean, atol=1e-6)
    assert torch.allclose(critic.value(permuted), value, atol=1e-6)
    hidden: Observation = {**observation, "goal_mask": observation["goal_mask"].clone()}
    hidden["goal_mask"][:, 1] = False
    changed: Observation = {**hidden, "goal": hidden["goal"].clone()}
    changed["goal"][:, 1] += 3.0
    assert torch.equal(critic.value(changed), critic.value(hidden))
    assert not torch.allclose(critic.value(hidden), value, atol=1e-4)  # control: a real item counts


def test_bodies_have_networks_of_their_own() -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(ARM, LEGS)))
    critic = ValueNet(CriticConfig(inputs=(5, 4)))
    legs: Observation = {"proprio": noise(3, 4), "body": torch.ones(3, dtype=torch.int64)}
    assert policy.act(legs, deterministic=True)[0].action.shape == (3, 1, 2)
    critic.value(legs).sum().backward()
    assert all(p.grad is None for p in critic.bodies[0].parameters())
    assert all(p.grad is not None for p in critic.bodies[1].parameters())


def test_save_and_load(tmp_path: Path) -> None:
    policy = GaussianPolicy(GaussianConfig(bodies=(ARM, LEGS), seed=3))
    observation: Observation = {"proprio": noise(3, 5), "body": torch.zeros(3, dtype=torch.int64)}
    policy.update_normaliser(observation)
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    assert torch.equal(
        loaded.act(observation, deterministic=True)[0].action, policy.act(observation, deterministic=True)[0].action
    )
    assert loaded.config == policy.config


def test_wrong_settings() -> None:
    with pytest.raises(InputError, match="bodies"):
        GaussianConfig(bodies=())
    with pytest.raises(InputError, match="horizon"):
        GaussianConfig(bodies=(ARM,), horizon=0)
