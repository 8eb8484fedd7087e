"""Whole trajectories out of rollouts: they are what the environment itself gives when their actions are made again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from toddle.algorithms.ddiffpg_actors import DeterministicActor, Exploring, TanhActor
from toddle.core.seeding import torch_generator
from toddle.envs.fork import ForkEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.trajectories import Trajectories, Trajectory
from toddle.models.normalizer import RunningNorm
from toddle.runs.checkpoint import copy_tree

LENGTH, WORLDS = 7, 3
HALVES = (slice(0, 2), slice(2, 4))
"""Position and velocity in an observation."""


def explorer(env: ForkEnv, worlds: int = WORLDS) -> Exploring:
    actor = DeterministicActor(TanhActor(4, 2, 0), RunningNorm([4]))
    spread, embeddings = torch.linspace(0.2, 0.8, worlds), torch.eye(2)
    found = Exploring(actor, env.body_spec, spread, embeddings, correlation=0.9)
    found.alone = False
    return found


def gathering(seed: int = 0) -> tuple[Collector, Exploring, Trajectories]:
    env = ForkEnv(WORLDS, max_episode_steps=10, speed=10.0)  # some reach the goal, the others are cut
    collector = Collector(env, CollectConfig(length=LENGTH, scale_rewards=False), seed=seed, ends="all")
    return collector, explorer(env), Trajectories(env)


def go_on(collector: Collector, policy: Exploring, joined: Trajectories, rollouts: int) -> list[Trajectory]:
    return [one for _ in range(rollouts) for one in joined.take(collector.collect(policy, None)[0])]


def test_a_trajectory_is_what_its_actions_do_and_a_kill_changes_none() -> None:
    parts = gathering()
    env, found = parts[0].env, go_on(*parts, 4)
    kept = copy_tree([parts[0].state_dict(), parts[1].under_way(), parts[2].state_dict()])
    later = go_on(*parts, 4)
    again = gathering(seed=5)
    again[0].load_state_dict(kept[0])
    again[1].go_on(kept[1])
    again[2].load_state_dict(kept[2])
    for one, other in zip(later, go_on(*again, 4), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    found += later
    assert {one.terminated for one in found} == {True, False}
    assert max(len(one.action) for one in found) > LENGTH, "of more than one rollout"
    for one in found:
        env.reset()
        env.pool.set_state(np.ones(WORLDS, bool), *(np.tile(one.observation[0, part], (WORLDS, 1)) for part in HALVES))
        for t, action in enumerate(one.action):
            seen, reward, terminated, _, info = env.step_chunk(np.tile(action, (WORLDS, 1, 1)), reset_done=False)
            np.testing.assert_allclose(seen[0], one.observation[t + 1], atol=1e-5)
            assert reward[0] == one.reward[t]
        assert (bool(info["success"][0]), bool(terminated[0])) == (one.success, one.terminated)


def test_an_episode_keeps_its_mode_and_its_noise_is_correlated() -> None:
    env = ForkEnv(400)
    policy, noise = explorer(env, 400), []
    policy.alone = True
    g, never = torch_generator(0, "test"), torch.zeros(400, dtype=torch.bool)
    seen: Any = {"proprio": torch.zeros(400, 4), "first": ~never}
    for _ in range(3):
        decision, _ = policy.act(seen, generator=g)
        noise.append(policy.drift.clone())
        assert torch.equal(decision.action[:, 0], policy.drift.clamp(-1, 1))
        behaviour, seen["first"] = policy.behaviour.clone(), never
    assert 150 < int(behaviour[:, 0].sum()) < 250, "one of the two modes, with equal chances"
    assert torch.equal(policy.behaviour, behaviour)
    both = torch.stack([step.flatten() for step in noise])
    assert torch.corrcoef(both)[0, 1] == pytest.approx(0.9, abs=0.03) and both.std() == pytest.approx(1.0, abs=0.05)
    seen["first"] = ~never
    policy.act(seen, generator=g)
    assert abs(torch.corrcoef(torch.stack([policy.drift.flatten(), noise[-1].flatten()]))[0, 1]) < 0.1
