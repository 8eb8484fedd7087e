"""Soft actor-critic: targets and optima known by hand, the order of updates, time limits, and a task that it learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tiny_env import EndlessEnv, ReachEnv
from toddle import build
from toddle.algorithms.replay_learner import ONLINE, decisions_of
from toddle.algorithms.soft_actor_critic import SoftActorCritic
from toddle.core.types import BodySpec
from toddle.data.replay import Decisions
from toddle.envs.base import BatchedEnv
from toddle.maths.distributions import tanh_log_slope
from toddle.models.q_ensemble import QEnsemble
from toddle.models.squashed_actor import SquashedActor
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.squashed_gaussian import squashed_from
from toddle.runs.checkpoint import copy_tree, states_equal

SMALL: dict[str, Any] = {"hidden": [16]}


def learner(env: BatchedEnv, **sac: Any) -> SoftActorCritic:
    small = {"critic_hidden": [16], "batch": 32, "rounds": 10, "learn_after": 8}
    made = build("sac", env, steps=10**6, **SMALL, sac=small | sac).learner
    assert isinstance(made, SoftActorCritic)
    return made


def bandit(count: int, states: int, reward: Any, *, actions: int = 1) -> Decisions:
    """Decisions with uniform actions after which nothing follows."""
    g = torch.Generator().manual_seed(0)
    action = torch.rand(count, actions, generator=g) * 2 - 1
    state = torch.zeros(count, states)
    return Decisions(state, action, state, reward(action), torch.zeros(count))


# ---- densities -----------------------------------------------------------------------------------------------------
def test_the_slope_of_tanh_is_exact_where_tanh_rounds_to_one() -> None:
    u = torch.tensor([-30.0, -5.0, -0.3, 0.0, 2.0, 20.0], dtype=torch.float64)
    wanted = [-2 * math.log(math.cosh(x)) for x in u.tolist()]
    torch.testing.assert_close(tanh_log_slope(u), torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(tanh_log_slope(u.float()).double(), torch.tensor(wanted, dtype=torch.float64))


def test_the_density_of_a_squashed_action_has_the_integral_one() -> None:
    actor = SquashedActor(1, 1, hidden=(4,), log_std=-0.5, generator=torch.Generator().manual_seed(0))
    state, a = torch.ones(200_001, 1), torch.linspace(-1, 1, 200_003)[1:-1, None]
    with torch.no_grad():
        mean, log_std = actor(state)
        u, log_prob = actor.draw(state, (a.atanh() - mean) / log_std.exp())
    torch.testing.assert_close(u.tanh(), a, rtol=1e-4, atol=1e-5)
    assert float(torch.trapezoid(log_prob.exp(), a[:, 0])) == pytest.approx(1.0, abs=1e-3)


def test_a_policy_of_offline_learning_goes_on_as_it_is() -> None:
    body = BodySpec(name="arm", proprio=3, action=2, dt=0.1)
    settings = GaussianConfig(bodies=(body,), hidden=(8, 8), activation="relu", squashed=True, log_std=-1.5)
    old = GaussianPolicy(settings)
    seen = {"proprio": torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1}
    old.fit_normaliser(seen)  # type: ignore[arg-type]
    new = squashed_from(old)
    first, second = (policy.act(seen, deterministic=True)[0].action for policy in (old, new))  # type: ignore[arg-type]
    torch.testing.assert_close(first, second)
    _, log_std = new.actor(seen["proprio"])
    assert torch.allclose(log_std, torch.tensor(-1.5))


# ---- critics -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer_norm", [False, True])
def test_an_ensemble_is_its_networks_one_by_one(layer_norm: bool) -> None:
    critics = QEnsemble(3, 2, hidden=(8, 6), count=4, seed=0, layer_norm=layer_norm)
    g = torch.Generator().manual_seed(1)
    for parameter in critics.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=g)
    critics.scale.update(torch.randn(50, 3, generator=g) + 2)
    state, action = torch.randn(7, 3, generator=g), torch.randn(7, 2, generator=g)
    wanted = []
    for number in range(4):
        layers: list[nn.Module] = []
        for index, weight in enumerate(critics.weights):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data, linear.bias.data = weight.data[number].T, critics.biases[index].data[number, 0]
            layers.append(linear)
            if index < 2 and layer_norm:
                norm = nn.LayerNorm(weight.shape[2])
                norm.weight.data, norm.bias.data = critics.gains[index][number, 0], critics.shifts[index][number, 0]
                layers.append(norm)
            layers.append(nn.ReLU())
        wanted.append(nn.Sequential(*layers[:-1])(torch.cat([critics.scale(state), action], 1))[:, 0])
    torch.testing.assert_close(critics(state, action), torch.stack(wanted))
    chosen = torch.tensor([2, 0])
    torch.testing.assert_close(critics(state, action, chosen), torch.stack(wanted)[chosen])


def test_layer_norm_bounds_values_far_from_the_data() -> None:
    """|Q| <= |w| sqrt(width) + |b| for a head w over a normalised layer, however large the action; without it grows."""
    action = 10.0 ** torch.arange(0, 9, 2)[:, None].expand(-1, 2).float()
    for layer_norm in (True, False):
        critics = QEnsemble(3, 2, hidden=(8, 6), count=3, seed=0, layer_norm=layer_norm)
        values = critics(torch.zeros(5, 3), action).abs().detach()
        bound = critics.weights[-1][..., 0].norm(dim=1) * 6**0.5 + critics.biases[-1][:, 0, 0].abs()
        assert bool((values <= bound[:, None]).all()) == layer_norm


@pytest.mark.parametrize(("subset", "wanted"), [(2, -0.5642), (10, -1.5388)])
def test_a_subset_of_critics_is_as_pessimistic_as_it_is_small(subset: int, wanted: float) -> None:
    """Heads that say N(0, 1), whatever they see: the mean of the smallest of 2 is -1 / sqrt(pi), of 10 -1.5388."""
    sac = learner(ReachEnv(1), critics=max(20, subset), subset=subset, target_rate=0.0, backup_entropy=False)
    nothing = Decisions(*(torch.zeros(1, n) for n in (4, 2, 4)), torch.zeros(1), torch.ones(1))
    g, found = torch.Generator().manual_seed(0), []
    sac.slow.weights[-1].zero_()
    for _ in range(60):
        sac.slow.biases[-1].copy_(torch.randn(20, 1, 1, generator=g))
        found.append(float(sac.update_critics(nothing)["target"]))
    assert np.mean(found) == pytest.approx(wanted, abs=0.25)


# ---- the order of things -------------------------------------------------------------------------------------------
def test_twenty_updates_of_the_critics_for_one_of_the_actor() -> None:
    sac = learner(ReachEnv(2), actor_every=20, critics=3, subset=2)
    sac.replay.stores[ONLINE].add(bandit(100, 4, lambda a: a.sum(1), actions=2))
    before, slow = copy_tree(dict(sac.actor.state_dict())), copy_tree(dict(sac.slow.state_dict()))
    batches = sac.replay.draw(20, 32, sac.batches)
    sac.learn(batches.at(slice(0, 19)))
    assert states_equal(before, dict(sac.actor.state_dict()))
    assert not states_equal(slow, dict(sac.slow.state_dict()))
    metrics = sac.learn(batches.at(slice(19, 20)))
    assert {name: optimiser.steps for name, optimiser in sac.optimisers.items()} == {
        "critics": 20,
        "actor": 1,
        "temperature": 1,
    }
    assert len(metrics["actor_loss"]) == 1 and sac.updates == 20


@pytest.mark.parametrize("backup", [True, False])
def test_a_target_by_hand(backup: bool) -> None:
    """y = r + gamma (min Q - alpha log pi), and r alone where nothing follows."""
    sac = learner(ReachEnv(1), backup_entropy=backup, temperature=0.3, target_rate=0.0)
    g = torch.Generator().manual_seed(2)
    states, after, action = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g), torch.zeros(6, 2)
    reward, discount = torch.arange(6.0), torch.tensor([0.9, 0.9, 0.9, 0.0, 0.0, 0.0])
    state = sac.noise.get_state()
    found = sac.update_critics(Decisions(states, action, after, reward, discount))["target"]
    noise = torch.randn(6, 2, generator=torch.Generator().set_state(state))  # type: ignore[func-returns-value]
    with torch.no_grad():
        following, log_prob = sac.actor.sample(after, noise)
        value = torch.minimum(*sac.slow(after, following)) - (0.3 * log_prob if backup else 0.0)
    assert float(found) == pytest.approx(float((reward + discount * value).mean()), abs=1e-5)


def test_a_time_limit_is_followed_by_what_it_cut_and_never_by_the_next_start() -> None:
    """ReachEnv moves by 0.2 of the action: of every decision, the one at the limit too."""
    sac = learner(ReachEnv(3, limit=4))
    for _ in range(9):
        rollout, _ = sac.collector.collect(sac.policy, None)
        made = decisions_of(sac.policy.state, rollout, rollout.chain.tanh())
        torch.testing.assert_close(made.following[:, :2], made.observation[:, :2] + 0.2 * made.action)
        torch.testing.assert_close(made.following[:, 2:], made.observation[:, 2:])
        assert made.discount.tolist() == pytest.approx([0.99] * 3)
    endless = learner(EndlessEnv(2, limit=3, as_termination=True))
    rollouts = (endless.collector.collect(endless.policy, None)[0] for _ in range(6))
    ends = [decisions_of(endless.policy.state, each, each.chain.tanh()) for each in rollouts]
    assert [float(made.discount[0]) for made in ends] == pytest.approx([0.99, 0.99, 0.0] * 2)


def test_learning_goes_on_bitwise_from_a_state() -> None:
    sac = learner(ReachEnv(3), ratio=0.5, critics=3, actor_every=2)
    sac.step()
    state = copy_tree(sac.state_dict())
    first = [sac.step() for _ in range(2)]
    after = copy_tree(sac.state_dict())
    other = learner(ReachEnv(3), ratio=0.5, critics=3, actor_every=2)
    other.load_state_dict(state)
    assert [other.step() for _ in range(2)] == first and states_equal(copy_tree(other.state_dict()), after)
    assert first[-1]["sac/updates"] == 0.5 * 3 * 28 and first[-1]["rollout/total_steps"] == 90
    assert {"episode/return", "episode/success", "sac/value", "sac/entropy", "sac/temperature"} <= first[0].keys()


# ---- what it learns ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_bandit_ends_at_the_soft_optimum() -> None:
    """r = -a^2: exp(r / alpha) is N(0, alpha / 2); an entropy of that of N(0, 0.1), 0.2676, needs alpha = 0.2.

    Its soft value is E r + alpha entropy = -0.1 + 0.2 * 0.2676 = -0.0465.
    """
    wanted = 0.5 * math.log(2 * math.pi * math.e * 0.1)
    sac = learner(EndlessEnv(1), target_entropy=wanted, batch=256, learning_rate=3e-3, critic_hidden=[32])
    sac.replay.stores[ONLINE].add(bandit(5000, 2, lambda a: -(a[:, 0] ** 2)))
    for _ in range(30):
        metrics = sac.learn(sac.replay.draw(50, 256, sac.batches))
    entropy, alpha, loss = (
        float(torch.stack(metrics[name]).mean()) for name in ("entropy", "temperature", "actor_loss")
    )
    assert entropy == pytest.approx(wanted, abs=0.05)
    assert alpha == pytest.approx(0.2, abs=0.04)
    assert -loss == pytest.approx(-0.0465, abs=0.03)
    action = sac.policy.act({"proprio": torch.zeros(1, 2)}, deterministic=True)[0].action
    assert abs(float(action)) < 0.1


@pytest.mark.slow
def test_it_learns_to_reach_and_from_noise_it_does_not() -> None:
    """Standing still returns about -21 an episode of 20 steps, a straight walk about -5."""
    found = {}
    for informative in (True, False):
        sac = learner(
            ReachEnv(4, informative=informative), batch=64, critic_hidden=[64], learning_rate=1e-3, rounds=500
        )
        for _ in range(3):
            sac.step()
        env, total = ReachEnv(16), 0.0
        raw, _ = env.reset(seed=5)
        for _ in range(19):
            seen = {"proprio": torch.from_numpy(raw).float()}
            raw, reward, *_ = env.step(sac.policy.act(seen, deterministic=True)[0].action[:, 0].numpy())
            total += float(reward.mean())
        found[informative] = total
    assert found[True] > -8.0 and found[False] < -12.0
