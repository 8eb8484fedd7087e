"""A small actor over a frozen policy: it is that policy until it learns, and what it learns has closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tests.policies.toy_flow import AimEnv, ToyFlow
from torch import Tensor

from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import Steering, SteeringConfig
from toddle.core.types import Observation
from toddle.data.replay import Decisions, Replay, Store
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.runs.checkpoint import copy_tree, states_equal

Mode = Literal["noise", "residual"]


def plain(noise: Tensor) -> Tensor:
    return 0.2 + 0.3 * noise


def made(
    mode: Mode,
    way: Callable[[Tensor], Tensor] = plain,
    *,
    scale: float = 1.5,
    horizon: int = 1,
    worlds: int = 16,
    limit: int = 4,
    settings: SteeringConfig | None = None,
    **sac: Any,
) -> Steering:
    config: dict[str, Any] = {"critic_hidden": (32,), "rounds": 5, "learn_after": 32, "batch": 64, "discount": 0.9}
    steered = SteeredConfig(mode=mode, scale=scale, hidden=(32,))
    policy = SteeredPolicy(steered, ToyFlow(way, horizon))
    collect = CollectConfig(length=1, discount=0.9, scale_rewards=False)
    collector = Collector(AimEnv(worlds, limit=limit), collect, seed=0)
    store = Store(10_000, *policy.state_sizes)
    replay = Replay({ONLINE: store}, {ONLINE: 1.0})
    return Steering(policy, collector, replay, SACConfig(**config | sac), settings or SteeringConfig(), seed=0)


def seen(batch: int = 8) -> Observation:
    return Observation(proprio=torch.randn(batch, 2, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("mode", ["noise", "residual"])
def test_before_it_learns_it_is_the_frozen_policy_bit_by_bit(mode: Mode) -> None:
    policy = made(mode, horizon=3).steered
    for deterministic in (False, True):
        mine, _ = policy.act(seen(), generator=torch.Generator().manual_seed(3), deterministic=deterministic)
        base, _ = policy.base.act(seen(), generator=torch.Generator().manual_seed(3))
        assert torch.equal(mine.action, base.action)
    policy.share.fill_(1.0)
    moved, _ = policy.act(seen(), generator=torch.Generator().manual_seed(3))
    assert not torch.equal(moved.action, base.action)


def test_a_residual_of_scale_0_is_the_frozen_policy_bit_by_bit() -> None:
    policy = made("residual", scale=0.0, horizon=3).steered
    policy.share.fill_(1.0)
    mine, _ = policy.act(seen(), generator=torch.Generator().manual_seed(3))
    base, _ = policy.base.act(seen(), generator=torch.Generator().manual_seed(3))
    assert torch.equal(mine.action, base.action)
    assert bool((mine.chain != 0).all())  # the actor had its say, it only counts for nothing


def test_noise_beyond_the_actors_box_is_as_frequent_as_a_normal_s() -> None:
    """P(|w| > 1.5) = 0.1336 (tables of the normal distribution); what is kept of it lies beyond [-1, 1]."""
    policy = made("noise", horizon=4).steered
    decision, _ = policy.act(seen(5000), generator=torch.Generator().manual_seed(0))
    share = float((decision.chain.abs() > 1.0).float().mean())
    assert abs(share - 0.1336) < 4 * math.sqrt(0.1336 * 0.8664 / 20_000)
    policy.share.fill_(1.0)
    decision, _ = policy.act(seen(5000), generator=torch.Generator().manual_seed(0))
    assert float(decision.chain.abs().max()) <= 1.0
    assert float((decision.action - 0.2).abs().max()) <= 0.3 * 1.5 + 1e-6  # |a - mu| <= m sigma


def test_the_frozen_policy_is_asked_once_a_decision() -> None:
    for mode in ("noise", "residual"):
        learner = made(mode, limit=1000)
        learner.steered.base.way = lambda noise: noise * 0.0  # no episode ends
        for count in range(1, 5):
            learner._gather()
            assert learner.steered.base.asked == count


def test_repeated_noise_is_one_vector_for_the_chunk() -> None:
    policy = SteeredPolicy(SteeredConfig(mode="noise", repeat=True, hidden=(8,)), ToyFlow(plain, 3))
    assert policy.state_sizes == (2, 1)
    for share in (0.0, 1.0):
        policy.share.fill_(share)
        action = policy.act(seen(), generator=torch.Generator().manual_seed(0))[0].action
        assert torch.equal(action, action[:, :1].expand_as(action)) and float(action.std()) > 0


@pytest.mark.parametrize(("best", "expected"), [(0.2 + 0.3 * 0.6, 0.6), (0.2 - 0.3 * 1.1, -1.1), (0.9, 1.5)])
def test_noise_goes_to_where_the_flow_does_best(best: float, expected: float) -> None:
    """F = mu + sigma w and Q = -(F - a*)^2: w* = clip((a* - mu) / sigma, -m, m)."""
    said = climbed(made("noise"), lambda _, said: -(plain(1.5 * said) - best).square() * 20)
    assert said[:, 0].mul(1.5).numpy() == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(("best", "expected"), [(0.25, 0.5), (0.14, -0.6), (0.5, 1.0)])
def test_the_residual_goes_to_what_is_missing_or_to_its_corner(best: float, expected: float) -> None:
    """Q = -(a - a*)^2 with |a* - a_b| < s: (a* - a_b) / s; beyond, the corner of the box."""
    learner = made("residual", lambda noise: 0.2 + 0.0 * noise, scale=0.1)
    said = climbed(learner, lambda state, said: -(state[:, 2:] + 0.1 * said - best).square() * 200)
    assert said[:, 0].numpy() == pytest.approx(expected, abs=0.05)


def climbed(learner: Steering, critic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the actor's most likely numbers after it has climbed a critic (B, 1) without entropy."""
    learner.optimisers["actor"].set_rates(30.0)
    learner.temperature.log.data.fill_(-12.0)
    learner.optimisers["temperature"].set_rates(0.0)
    learner._gather()
    learner._gather()
    batch = learner.replay.stores[ONLINE].at(torch.arange(16))
    learner.critics = lambda state, said: critic(state, said).T  # type: ignore[assignment]
    for _ in range(80):
        learner.update_actor(batch)
    return learner.actor.sample(batch.observation, torch.zeros(16, 1))[0].detach()


# ---- what is kept ----------------------------------------------------------------------------------------------------
def kept(learner: Steering, decisions: int) -> Decisions:
    for _ in range(decisions):
        learner._gather()
    store = learner.replay.stores[ONLINE]
    return store.at(torch.arange(len(store)))


def test_a_decision_is_kept_with_the_next_action_of_the_frozen_policy() -> None:
    """The draw that was really made there is the target's: it stands in the next decision's state."""
    learner = made("residual", lambda noise: 0.1 * noise.clamp(-3, 3), worlds=2, limit=100)
    found = kept(learner, 6)
    before, after = found.observation.unflatten(0, (5, 2)), found.following.unflatten(0, (5, 2))
    assert torch.equal(after[:-1], before[1:])
    assert before[:, :, 2].unique().numel() == 10
    executed = np.concatenate(learner.collector.env.actions)[:10, 0]  # type: ignore[attr-defined]
    assert before[:, :, 2].flatten().numpy() == pytest.approx(executed)
    assert bool((found.action == 0).all())


def test_ends_are_kept_apart_and_cut_episodes_are_followed_by_where_they_were_cut() -> None:
    learner = made("residual", lambda noise: torch.where(noise > 0.5, 0.9, 0.0), worlds=32, limit=3, learn_after=10_000)
    found = kept(learner, 12)
    reached = found.observation[:, 2] >= 0.5
    assert torch.equal(found.discount == 0, reached) and reached.any()
    assert torch.equal(found.reward, reached.float())
    cut = ~reached & (found.observation[:, 0] > 0.6)  # the last step but one of three
    assert cut.any() and bool((found.discount[cut] == 0.9).all())
    assert bool((found.following[cut, 0] == 1.0).all())  # a time of 3 / 3, where no episode begins
    going = ~reached & ~cut
    assert found.following[going, 0].numpy() == pytest.approx((found.observation[going, 0] + 1 / 3).numpy())


def test_a_chunk_is_paid_step_by_step() -> None:
    """Three steps at -1 with gamma 0.9: -(1 + 0.9 + 0.81), halved; what follows counts 0.729."""
    settings = SteeringConfig(bonus=-1.0, reward_scale=0.5)
    learner = made("noise", lambda noise: 0.0 * noise, horizon=3, limit=100, settings=settings)
    found = kept(learner, 3)
    assert found.reward.numpy() == pytest.approx(-0.5 * 2.71)
    assert found.discount.numpy() == pytest.approx(0.729)


def test_the_sum_is_clipped_once_by_the_environment() -> None:
    """The frozen policy's 1.3 and a residual of -0.5 are 0.8, not 0.5."""
    learner = made("residual", lambda noise: 1.3 + 0.0 * noise, scale=0.5)
    learner.steered.share.fill_(1.0)
    learner.steered.actor.last.weight.data.zero_()
    learner.steered.actor.last.bias.data.fill_(-20.0)
    learner.learn_after = 0
    learner._gather()
    assert learner.collector.env.actions[0] == pytest.approx(0.8)  # type: ignore[attr-defined]


def test_values_begin_at_0() -> None:
    """A value of going on that begins above success's would teach to avoid it."""
    learner = made("residual")
    assert not learner.critics(torch.randn(9, 3), torch.rand(9, 1)).any()
    assert not learner.slow(torch.randn(9, 3), torch.rand(9, 1)).any()


# ---- who acts --------------------------------------------------------------------------------------------------------
def test_the_share_rises_with_the_steps() -> None:
    learner = made("residual", lambda noise: 0.0 * noise, limit=1000, settings=SteeringConfig(ramp=160))
    shares = [learner._gather()["steer/share"] for _ in range(14)]
    assert shares[:3] == [0.0, 0.0, 0.0]  # fewer than learn_after, 32, are kept before the fourth of 16
    assert shares[3:] == pytest.approx([min(1.0, 0.1 * n) for n in range(3, 14)])


def test_a_take_over_after_the_episode_is_the_frozen_policy_bit_by_bit() -> None:
    whole, hybrid = (made("residual", limit=4, settings=SteeringConfig(hybrid=n)) for n in (0, 10**9))
    whole.learn_after = 10**9  # the frozen policy alone
    hybrid.learn_after = 0
    for learner in (whole, hybrid):
        for _ in range(10):
            learner._gather()
    assert float(hybrid.steered.share) == 1.0
    assert np.array_equal(*(np.array(learner.collector.env.actions) for learner in (whole, hybrid)))  # type: ignore[attr-defined]


def test_a_hybrid_episode_begins_with_the_frozen_policy() -> None:
    learner = made(
        "residual", lambda noise: 0.0 * noise, scale=0.1, worlds=64, limit=8, settings=SteeringConfig(hybrid=4)
    )
    learner.learn_after = 0
    found = kept(learner, 8)
    alone = (found.action == 0).reshape(-1, 64)
    assert bool((alone[1:] <= alone[:-1]).all())  # once it has taken over it goes on
    waits = alone.sum(0)
    assert sorted(waits.unique().tolist()) == [0, 1, 2, 3, 4]


# ---- learning --------------------------------------------------------------------------------------------------------
def rare(noise: Tensor) -> Tensor:
    """Well only where the noise is above 1, which it is in 16 of 100 draws."""
    return torch.where(noise > 1.0, 0.8, -0.5 + 0.1 * noise.clamp(-3, 3))


def success(learner: Steering, share: float) -> float:
    learner.steered.share.fill_(share)
    action = learner.steered.act(seen(500), generator=torch.Generator().manual_seed(1), deterministic=True)[0].action
    return float((action >= 0.5).float().mean())


@pytest.mark.parametrize("shuffled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_steering_finds_a_rare_mode_and_shuffled_rewards_do_not(shuffled: bool) -> None:
    learner = made("noise", rare, worlds=64, limit=2, learn_after=256, learning_rate=3e-3, ratio=0.25, temperature=0.05)
    if shuffled:
        generator = torch.Generator().manual_seed(5)
        paid = learner._paid
        learner._paid = lambda reward, discount: paid(  # type: ignore[method-assign]
            reward[torch.randperm(len(reward), generator=generator)], discount
        )
    assert success(learner, 0.0) == pytest.approx(0.16, abs=0.05)
    for _ in range(4):
        metrics = learner.step()
    assert metrics["sac/updates"] > 150
    assert success(learner, 1.0) < 0.5 if shuffled else success(learner, 1.0) > 0.95


def test_a_killed_run_goes_on_bit_by_bit() -> None:
    settings = SteeringConfig(ramp=400, hybrid=2)
    whole, killed = (made("residual", settings=settings, ratio=0.5) for _ in range(2))
    for _ in range(2):
        whole.step()
    killed.load_state_dict(copy_tree(whole.state_dict()))
    assert killed.step() == whole.step() and whole.updates > 60
    assert states_equal(killed.state_dict(), whole.state_dict())
