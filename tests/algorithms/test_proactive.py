"""Asking for resets: who asks when, what the person is asked, what is learned of it."""

from __future__ import annotations

from typing import Any

import torch

from toddle.algorithms.proactive import Proactive, StuckConfig
from toddle.algorithms.replay_learner import ONLINE
from toddle.algorithms.reset_free import ResetFreeConfig
from toddle.algorithms.soft_actor_critic import SACConfig
from toddle.core.seeding import torch_generator
from toddle.data.replay import Replay, Store
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy


def learner(limit: int = 1000, **settings: Any) -> Any:
    env = make_env("gutter/push", 2, seed=0, max_episode_steps=limit)
    policy = SquashedGaussianPolicy(SquashedGaussianConfig(body=env.body_spec, hidden=(16,)))
    collector = Collector(env, CollectConfig(length=1, scale_rewards=False), seed=0, critic_sees=False)
    shown = 0.4 * torch.rand(20, 6, generator=torch_generator(0, "shown"))
    sac = SACConfig(batch=16, ratio=0.25, learn_after=8, rounds=8, critic_hidden=(16,))
    given = ResetFreeConfig(judge_batch=32, judge_hidden=(16,), turn=4)
    stuck = StuckConfig(hidden=(16,), updates=40, learning_rate=0.02, batch=32, **settings)
    replay = Replay({ONLINE: Store(500, 6, 2)}, {ONLINE: 1.0})
    return Proactive(policy, collector, replay, sac, settings=given, stuck=stuck, demonstrated=shown, seed=0)


def drop(made: Any, world: int) -> None:
    made.collector.env._puck[world] = 0.0, 0.55
    made.collector._raw, made.collector._last = made.collector.env.current_observation(), None


def test_a_person_is_asked_as_soon_as_it_is_so_and_finds_where_it_began() -> None:
    made = learner(ask="oracle")
    for _ in range(3):
        made._gather()
    drop(made, 0)
    metrics = made._gather()
    assert metrics["paint/stuck"] == 0.5 and (made.asked, made.needless, made.resets) == (1, 0, 1)
    assert made.questions == 2  # of 4 states the last: halves of 4, then of 2
    assert len(made.sorted[True]) == 1 and len(made.sorted[False]) == 20 + 3
    assert not made.collector.env.stuck().any() and made.collector.env._puck[0, 0] < -0.2
    assert made.collector.actor.first.tolist() == [True, False]


def test_what_was_sorted_is_learned_and_what_is_stuck_is_asked_about() -> None:
    made = learner()
    drop(made, 0)
    for _ in range(10):
        made._gather()
    now = torch.from_numpy(made.collector.env.current_observation()["proprio"])
    assert made.asked == 0 and made.probability(now).tolist() == [0.0, 0.0]  # no stuck state is known
    made._sort(0)
    made._learn_stuck()
    stuck, free = made.probability(now).tolist()  # states that nobody has sorted yet
    assert stuck > 0.9 and free < 0.5
    made._gather()
    assert (made.asked, made.needless) == (1, 0)


def test_a_control_asks_at_random_and_resets_by_the_limit_are_sorted_too() -> None:
    often = learner(ask="random", ask_rate=0.5)
    for _ in range(40):
        often._gather()
    assert 25 < often.asked < 55 and often.needless == often.asked  # of 80 decisions, none of them stuck
    silent = learner(limit=4, ask="never")
    for _ in range(4):
        silent._gather()
    assert (silent.asked, silent.resets, silent.questions) == (0, 2, 4)  # of 3 states each, two questions


def test_it_goes_on_bit_for_bit() -> None:
    whole, first, second = (learner(ask_rate=0.1, ask="random") for _ in range(3))
    for made in (whole, first):
        drop(made, 1)
        made.step()
    second.load_state_dict(first.state_dict())
    assert whole.step() == second.step()
    assert whole.asked > 0 and whole.learned_anew > 0 and torch.equal(whole.sorted[True], second.sorted[True])
