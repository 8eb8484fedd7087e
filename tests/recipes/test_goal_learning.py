"""Goal tracking is learnt, and it is the shown goal that is followed: held-out error falls, shuffled goals fail."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from toddle.core.protocols import Acting
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.experience.actor import Actor
from toddle.recipes.pretrain import build, configure


def _held_out(policy: Acting, control: Literal["own", "shuffled", "none"]) -> tuple[float, float]:
    """Success and mean error of held-out goals."""
    env = GoalTrackingEnv("sawyer", 32, held_out=True, control=control, episode_seconds=5.0)
    raw, _ = env.reset(seed=11)
    actor, success, error = Actor(env), [], []
    actor.begin(policy)
    for _ in range(400 // policy.horizon):
        decision = actor.decide(policy, actor.observe(raw), None, deterministic=True)
        raw, _, terminated, truncated, info = env.step_chunk(actor.executable(decision))
        actor.note(terminated | truncated)
        done = info["goal_done"]
        success += info["goal_success"][done].tolist()
        error += info["goal_error"][done].tolist()
    return float(np.mean(success)), float(np.mean(error))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sawyer_learns_to_follow_goals() -> None:
    pytest.importorskip("metaworld")
    torch.set_num_threads(1)
    made = build(configure(env=["goal/sawyer"], steps=200_000))
    learner, policy, iterations = made.learner, made.policy, made.iterations
    policy.train()
    for _ in range(iterations):
        learner.step()
    policy.eval()
    (own, error), (shuffled, wrong) = (_held_out(policy, control) for control in ("own", "shuffled"))  # type: ignore[arg-type]
    assert own > 0.3 and error < 0.3
    assert shuffled < own / 3 and wrong > 2 * error
