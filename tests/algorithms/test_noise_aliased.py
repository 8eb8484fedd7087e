"""DSRL-NA: critics of noise are those of the actions that noise comes to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.policies.toy_flow import AimEnv, ToyFlow
from torch import Tensor

from toddle.algorithms.noise_aliased import NoiseAliased
from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import SteeringConfig
from toddle.core.types import Observation
from toddle.data.replay import Replay, Store
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.runs.checkpoint import copy_tree, states_equal


def folded(noise: Tensor) -> Tensor:
    """Two noises for each action, w and -w."""
    return 0.8 - 2.0 * (noise.abs() - 1.2).abs().clamp(max=0.8)


def rare(noise: Tensor) -> Tensor:
    """Well only where the noise is above 1, which it is in 16 of 100 draws."""
    return torch.where(noise > 1.0, 0.8, -0.5 + 0.1 * noise.clamp(-3, 3))


def made(way: Any = folded, *, horizon: int = 1, worlds: int = 16, limit: int = 2, **sac: Any) -> NoiseAliased:
    config: dict[str, Any] = {"critic_hidden": (32,), "rounds": 5, "learn_after": 32, "batch": 64, "discount": 0.9}
    policy = SteeredPolicy(SteeredConfig(mode="noise", scale=1.5, hidden=(32,)), ToyFlow(way, horizon))
    policy.draws = 3
    collect = CollectConfig(length=1, discount=0.9, scale_rewards=False)
    collector = Collector(AimEnv(worlds, limit=limit), collect, seed=0)
    replay = Replay({ONLINE: Store(10_000, *policy.state_sizes)}, {ONLINE: 1.0})
    return NoiseAliased(policy, collector, replay, SACConfig(**config | sac), SteeringConfig(), seed=0)


def seen(batch: int) -> Observation:
    return Observation(proprio=torch.randn(batch, 2, generator=torch.Generator().manual_seed(0)))


def test_a_decision_keeps_what_draws_come_to_and_is_what_it_was() -> None:
    policy = made(horizon=2).noisy
    for share in (0.0, 1.0):
        policy.share.fill_(share)
        policy.base.asked, policy.draws = 0, 3
        kept = policy.act(seen(5), generator=torch.Generator().manual_seed(3))[0]
        assert policy.base.asked == 1 and kept.state is not None and kept.state.shape == (5, 2 + 2 + 3 * (2 + 2))
        state, action, said, chunks = policy.parted(kept.state)
        assert torch.equal(state, seen(5)["proprio"]) and torch.equal(action, kept.action.flatten(1))
        torch.testing.assert_close(chunks, folded(1.5 * said))
        assert said.unique().numel() == 30
        policy.draws = 0
        plain = policy.act(seen(5), generator=torch.Generator().manual_seed(3))[0]
        assert torch.equal(plain.action, kept.action) and torch.equal(plain.chain, kept.chain)


def test_the_value_of_noise_is_that_of_its_action_at_new_noise() -> None:
    """Q^A stands still; Q^W of fresh noise then differs from Q^A of its action by a fraction of the spread."""
    learner = made(learning_rate=1e-2, limit=100)
    for _ in range(40):
        learner._gather()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        learner.values.weights[-1].copy_(torch.randn(learner.values.weights[-1].shape, generator=g))
    learner.optimisers["values"].set_rates(0.0)
    for index in range(200):
        learner.update_critics(learner.replay.draw(1, 64, learner.batches).at(0))
        if index == 150:
            learner.optimisers["critics"].set_rates(0.1)
    said = torch.randn(300, 1, generator=g) / 1.5
    state = learner.replay.stores[ONLINE].at(torch.arange(300)).observation[:, :2]
    wanted = learner.values(state, folded(1.5 * said)).detach()
    assert float((learner.critics(state, said).detach() - wanted).abs().mean()) < 0.2 * float(wanted.std())


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_it_finds_noise_that_pays_and_shuffled_rewards_do_not(shuffled: bool) -> None:
    learner = made(rare, worlds=64, learn_after=256, learning_rate=3e-3, ratio=0.25, temperature=0.05)
    if shuffled:
        generator, paid = torch.Generator().manual_seed(5), learner._paid
        learner._paid = lambda reward, discount: paid(  # type: ignore[method-assign]
            reward[torch.randperm(len(reward), generator=generator)], discount
        )
    for _ in range(4):
        learner.step()
    learner.steered.share.fill_(1.0)
    action = learner.noisy.act(seen(500), generator=torch.Generator().manual_seed(1), deterministic=True)[0].action
    success = float((action >= 0.5).float().mean())
    assert success < 0.5 if shuffled else success > 0.9, success


def test_a_killed_run_goes_on_bit_by_bit() -> None:
    whole, killed = (made(ratio=0.2) for _ in range(2))
    for _ in range(2):
        whole.step()
    killed.load_state_dict(copy_tree(whole.state_dict()))
    assert killed.step() == whole.step() and whole.updates > 10
    assert states_equal(killed.state_dict(), whole.state_dict())
