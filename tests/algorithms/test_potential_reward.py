"""Rewards of progress over real rollouts: what follows a decision, where episodes are cut, end, and go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.algorithms.test_process_reward import POINT, policy
from tests.policies.test_process_reward import tiny_model

from tiny_env import SeenEnv
from toddle.algorithms.estimators import ReturnsToGo
from toddle.algorithms.potential_reward import PotentialReward
from toddle.core.errors import InputError
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.episodes import EpisodesConfig, GroupCollector
from toddle.policies.process_reward import RewardModel


def model(**more: Any) -> RewardModel:
    made = tiny_model(says="order", **more)
    made.ends.copy_(torch.tensor([0.0, 0.01]))  # an untrained value hardly moves
    return made


def term(form: Any = "shaping", **more: Any) -> PotentialReward:
    return PotentialReward(model(), form=form, weight=more.pop("weight", 1.0), same_features=False)


def test_parts_of_episodes_are_paid_as_their_pictures_say() -> None:
    """By hand from the pictures that were kept: the next one, or the final one where an episode was cut."""
    made = term()
    rollout, _ = Collector(
        SeenEnv(2, limit=3, success_at=99), CollectConfig(length=7, keep="pictures", discount=0.9), seed=0
    ).collect(policy(), None)
    paid = made.reward(rollout) * rollout.reward_scale
    assert rollout.truncated.any() and rollout.finals is not None
    said = made.model.progress(rollout.observation_and_last)
    final = made.model.progress(rollout.finals)
    at = {tuple(place): float(value) for place, value in zip(rollout.final_at.tolist(), final, strict=True)}
    assert len(at) == int(rollout.truncated.sum())
    for t in range(7):
        for world in range(2):
            after = at.get((t, world), float(said[t + 1, world]))
            assert float(paid[t, world]) == pytest.approx(0.9 * after - float(said[t, world]), abs=1e-4)
    assert made.metrics()["reward/potential"] == pytest.approx(float(paid.mean()), abs=1e-5)


@pytest.mark.parametrize("form", ["shaping", "difference"])
def test_whole_episodes_sum_to_their_ends(form: Any) -> None:
    """Undiscounted: shaping of an episode that was cut is Phi(last) - Phi(first), its success 1 - Phi(first)."""
    made = term(form)
    env = SeenEnv(4, limit=4, success_at=99)
    rollout, _ = GroupCollector(env, EpisodesConfig(group=2, keep="pictures"), seed=0).collect(policy(), None)
    said, paid = made.model.progress(rollout.observation_and_last), made.reward(rollout)
    assert rollout.truncated[-1].all()
    torch.testing.assert_close(paid.sum(0), said[-1] - said[0], atol=1e-4, rtol=1e-4)
    rollout.truncated[-1], rollout.terminated[-1] = False, True
    assert rollout.reached is not None
    rollout.reached[-1] = True
    wanted = 1.0 - said[0] if form == "difference" else -said[0]
    torch.testing.assert_close(made.reward(rollout).sum(0), wanted, atol=1e-4, rtol=1e-4)


def test_an_episode_that_is_stopped_with_its_group_is_not_paid_for_another_s_pictures() -> None:
    """World 0 stops after two decisions without an end of its own: its last one changes nothing."""
    env = SeenEnv(4, limit=4, success_at=99)
    rollout, _ = GroupCollector(env, EpisodesConfig(group=2, keep="pictures"), seed=0).collect(policy(), None)
    made = term("difference")
    assert rollout.mask is not None
    rollout.mask[2:, 0] = False
    said, paid = made.model.progress(rollout.observation_and_last), made.reward(rollout)
    assert float(paid[1, 0]) == 0.0
    torch.testing.assert_close(paid[:, 0].sum(), said[1, 0] - said[0, 0], atol=1e-4, rtol=1e-4)


def test_what_the_weight_is_and_what_is_not_real() -> None:
    env = SeenEnv(4, limit=4, success_at=99)
    rollout, _ = GroupCollector(env, EpisodesConfig(group=2, keep="pictures"), seed=0).collect(policy(), None)
    one = term().reward(rollout)
    torch.testing.assert_close(term(weight=0.5).reward(rollout), 0.5 * one)
    assert rollout.mask is not None
    rollout.mask[2:, 0] = False
    assert term().reward(rollout)[2:, 0].abs().sum() == 0.0


def test_returns_to_go_are_sums_of_what_follows() -> None:
    env = SeenEnv(2, limit=4, success_at=99)
    rollout, _ = GroupCollector(env, EpisodesConfig(group=1, keep="pictures"), seed=0).collect(policy(), None)
    rollout.reward.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0], [4.0, 8.0], [8.0, 7.0]]))
    assert rollout.mask is not None
    rollout.mask[3, 1] = False
    ReturnsToGo(0.5).fill(rollout)
    assert rollout.advantage.tolist() == [[4.0, 3.0], [6.0, 4.0], [8.0, 8.0], [8.0, 0.0]]


def test_words_and_progress_are_not_mixed_up() -> None:
    assert POINT.proprio == 4
    with pytest.raises(InputError, match="says how far a task is"):
        tiny_model().progress({})  # type: ignore[typeddict-item]
    with pytest.raises(InputError, match="says yes or no"):
        model().yes({})  # type: ignore[typeddict-item]
    assert np.isfinite(float(model().ends.sum()))
