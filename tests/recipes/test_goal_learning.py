"""Goal tracking is learnt, and it is the shown goal that is followed: held-out error falls, shuffled goals fail."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from toddle.core.protocols import Policy
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.experience.observations import to_observation
from toddle.recipes.pretrain import Config, build


def _held_out(policy: Policy, control: Literal["own", "shuffled", "none"]) -> tuple[float, float]:
    """Success and mean error of held-out goals."""
    env = GoalTrackingEnv("sawyer", 32, held_out=True, control=control, episode_seconds=5.0)
    raw, _ = env.reset(seed=11)
    memory, first = policy.initial_memory(32), np.ones(32, bool)
    previous, success, error = np.zeros((32, policy.horizon * 4), np.float32), [], []
    for _ in range(400 // policy.horizon):
        observation = to_observation(raw, first=first, previous_action=previous, body=0, instruction=None)
        decision, memory = policy.act(observation, memory, deterministic=True)
        chunk = decision.action.numpy().clip(-1, 1)
        raw, _, terminated, truncated, info = env.step_chunk(chunk)
        previous, first, done = chunk.reshape(32, -1), terminated | truncated, info["goal_done"]
        success += info["goal_success"][done].tolist()
        error += info["goal_error"][done].tolist()
    return float(np.mean(success)), float(np.mean(error))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sawyer_learns_to_follow_goals() -> None:
    pytest.importorskip("metaworld")
    torch.set_num_threads(1)
    learner, policy, iterations = build(Config(env=("goal/sawyer",), steps=200_000))
    policy.train()
    for _ in range(iterations):
        learner.step()
    policy.eval()
    (own, error), (shuffled, wrong) = (_held_out(policy, control) for control in ("own", "shuffled"))  # type: ignore[arg-type]
    assert own > 0.3 and error < 0.3
    assert shuffled < own / 3 and wrong > 2 * error
