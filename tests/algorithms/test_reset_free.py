"""Learning without resets: what the judge pays, whose turn it is, what each learner keeps, what is counted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from toddle.algorithms.replay_learner import ONLINE
from toddle.algorithms.reset_free import ResetFree, ResetFreeConfig, mixed_up
from toddle.algorithms.soft_actor_critic import SACConfig
from toddle.core.seeding import torch_generator
from toddle.data.replay import Decisions, Replay, Store
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy

OFFLINE = "offline"


def learner(limit: int = 1000, **settings: Any) -> ResetFree:
    env = make_env("gutter/push", 2, seed=0, max_episode_steps=limit)
    policy = SquashedGaussianPolicy(SquashedGaussianConfig(body=env.body_spec, hidden=(16,)))
    collector = Collector(env, CollectConfig(length=1, scale_rewards=False), seed=0, critic_sees=False)
    shown = torch.rand(20, 6, generator=torch_generator(0, "shown"))
    stores = {ONLINE: Store(500, 6, 2), OFFLINE: Store(20, 6, 2)}
    ends = torch.full((20,), 0.9).index_fill_(0, torch.tensor([19]), 0.0)
    stores[OFFLINE].add(Decisions(shown, shown[:, :2], shown, torch.zeros(20), ends))
    sac = SACConfig(batch=16, ratio=0.25, learn_after=8, rounds=12, critic_hidden=(16,), reward_scale=10.0)
    given = ResetFreeConfig(judge_batch=32, judge_hidden=(16,), **settings)
    shares = {ONLINE: 0.5, OFFLINE: 0.5}
    return ResetFree(policy, collector, Replay(stores, shares), sac, settings=given, demonstrated=shown, seed=0)


@pytest.mark.parametrize(("ratio", "paid"), [(1.0, 0.6931472), (0.1, 0.0953102), (10.0, 2.3978953)])
def test_the_best_judge_pays_log_of_one_and_the_ratio_of_densities(ratio: float, paid: float) -> None:
    """At the optimum D = log p_demo / p_back; the values are log(1 + ratio)."""
    made = learner()
    last: Any = made.judge[-1]
    with torch.no_grad():
        last.weight.zero_(), last.bias.fill_(math.log(ratio))
    assert made.pay(torch.randn(3, 6)).tolist() == pytest.approx([paid] * 3, abs=1e-6)


def test_mixup_leaves_the_mean_and_lies_between() -> None:
    states = torch.cat([torch.zeros(4000, 2), torch.ones(4000, 2)])
    mixed, labels = mixed_up(states, states[:, 0], torch_generator(0, "mix"))
    assert torch.equal(mixed[:, 0], labels) and labels.min() >= 0.0 and labels.max() <= 1.0
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.02)  # a uniform share of a fair pair: variance 1/6
    assert float(labels.var()) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_judge_pays_more_where_demonstrations_have_been_and_not_by_shuffled_labels(shuffled: bool) -> None:
    made = learner(shuffled=shuffled)
    for parameter in made.judge.parameters():
        parameter.data.mul_(0.5)
    elsewhere = made.demonstrated - 1.0
    for _ in range(150):
        made.judging.parts["judge"].rate = 0.01
        made.update_judge(elsewhere[torch.randint(20, (32,), generator=made.draws)])
    there, away = made.pay(made.demonstrated).mean(), made.pay(elsewhere).mean()
    assert (there > away + 1.0) != shuffled
    assert not shuffled or abs(float(there) - math.log(2)) < 0.3


def test_turns_pass_after_so_many_decisions_or_with_success_which_ends_what_follows() -> None:
    made: Any = learner(turn=5)
    env = made.collector.env
    whose = []
    for step in range(12):
        if step == 2:
            env._puck[0] = 0.5, 0.0  # at the spot, out of reach of the hand
        made._gather()
        whose.append(made.turns.returning.tolist())
    first, second = (list(world) for world in zip(*whose, strict=True))
    assert first[:8] == [False] * 2 + [True] * 5 + [False]
    assert second == [False] * 4 + [True] * 5 + [False] * 3
    ours, theirs = (made_.replay.stores[ONLINE] for made_ in (made, made.way))
    assert len(ours) + len(theirs) == 24
    kept = ours.at(torch.arange(len(ours)))
    assert kept.reward.max() == 10.0 and bool((kept.discount[kept.reward > 0] == 0).all())
    assert bool((kept.discount[kept.reward == 0] > 0).all())  # the end of a turn is no end
    way = theirs.at(torch.arange(len(theirs)))
    assert bool((way.discount > 0).all()) and len(made.way.replay.stores[OFFLINE]) == 19


def test_only_the_environments_own_limit_resets_and_is_counted() -> None:
    assert learner(turn=3).step()["reset_free/resets"] == 0.0
    metrics = learner(limit=5, turn=3).step()
    assert metrics["reset_free/resets"] == 4.0  # 12 decisions of 2 worlds, at 5 and 10
    alone: Any = learner(turn=3, back="none")
    assert alone.step()["reset_free/turns"] == 8.0 and not len(alone.way.replay.stores[ONLINE])


@pytest.mark.slow  # test_proactive has the same of a learner that is this and more
def test_it_goes_on_bit_for_bit() -> None:
    whole, first, second = learner(turn=4), learner(turn=4), learner(turn=4)
    whole.step()
    first.step()
    second.load_state_dict(first.state_dict())
    assert whole.step() == second.step()
    for ours, theirs in ((whole.policy, second.policy), (whole.way.policy, second.way.policy)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert whole.updates > 0 and whole.way.updates > 0
