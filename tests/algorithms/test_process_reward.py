"""What a process reward model pays: capped, in the rollout's units, nothing after success, within its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.test_process_reward import tiny_model

from tiny_env import HastyEnv, ReachEnv, SeenEnv
from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.algorithms.process_reward import ProcessReward, ProcessRewardConfig, load_process_reward
from toddle.core.errors import InputError
from toddle.core.types import BodySpec, FeatureSource
from toddle.envs.base import BatchedEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.episodes import EpisodesConfig, GroupCollector
from toddle.experience.rollout import Rollout
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.process_reward import RewardModel, save_reward_model

POINT = BodySpec(name="point", proprio=4, action=2, dt=0.1)


def policy(horizon: int = 1) -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(POINT,), hidden=(8,), horizon=horizon))


def rollout_of(env: BatchedEnv, length: int = 8, **collect: Any) -> Rollout:
    config = CollectConfig(length=length, keep="pictures", **collect)
    return Collector(env, config, seed=0).collect(policy(), None)[0]


def saying(word: str) -> RewardModel:
    """A real model whose last bias outweighs what it sees."""
    model = tiny_model()
    with torch.no_grad():
        model.words[1].bias.copy_(torch.tensor([-50.0, 50.0] if word == "yes" else [50.0, -50.0]))
    return model


def term(word: str = "yes", **settings: Any) -> ProcessReward:
    return ProcessReward(saying(word), ProcessRewardConfig(**settings), same_features=False)


EPISODE = [False, False, False, True, True, True]
"""Success after the third of six decisions: what is known before each of them."""


def test_rollouts_say_what_came_after_success() -> None:
    """Two rollouts of four decisions: an episode goes on from one into the next."""
    collector = Collector(SeenEnv(2, limit=6), CollectConfig(length=4, keep="pictures"), seed=0)
    found = [collector.collect(policy(), None)[0].columns["succeeded"].clone() for _ in range(3)]
    assert torch.cat(found)[:, 0].tolist() == 2 * EPISODE
    assert torch.cat(found)[:, 1].tolist() == 2 * EPISODE
    assert (
        "succeeded" not in Collector(HalfSeenEnv(2), CollectConfig(length=4), seed=0).collect(policy(), None)[0].columns
    )


class HalfSeenEnv(HastyEnv):
    """Reports no success."""

    def _infos(self) -> dict[str, np.ndarray]:
        return {"cost": self.haste.copy()}


def test_what_was_reached_survives_a_kill() -> None:
    first = Collector(SeenEnv(2, limit=6), CollectConfig(length=4, keep="pictures"), seed=0)
    first.collect(policy(), None)
    second = Collector(SeenEnv(2, limit=6), CollectConfig(length=4, keep="pictures"), seed=1)
    second.load_state_dict(first.state_dict())
    assert second.collect(policy(), None)[0].columns["succeeded"][:, 0].tolist() == [True, True, False, False]


def test_success_inside_a_chunk_counts_from_the_next_decision() -> None:
    """Chunks of two: success at control step 3 comes in the second; at a later step it is reported no more."""
    collector = Collector(SeenEnv(1, limit=8, success_at=4), CollectConfig(length=4, keep="pictures"), seed=0)
    rollout, _ = collector.collect(policy(2), None)
    assert rollout.columns["succeeded"][:, 0].tolist() == [False, False, True, True]


def test_groups_say_it_too() -> None:
    collector = GroupCollector(SeenEnv(4, limit=6), EpisodesConfig(group=2), seed=0)
    rollout, _ = collector.collect(policy(), None)
    assert rollout.columns["succeeded"][:, 3].tolist() == EPISODE
    paid = term().reward(rollout)
    assert paid[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.1, 0, 0, 0])


def test_yes_pays_the_cap_until_success() -> None:
    reward = term()
    paid = reward.reward(rollout_of(SeenEnv(2, limit=6), scale_rewards=False))
    assert paid[:, 1].tolist() == pytest.approx([0.1, 0.1, 0.1, 0, 0, 0, 0.1, 0.1])
    facts = {"reward/process": 0.5 / 8, "reward/process_capped": 5 / 8, "reward/process_withheld": 3 / 8}
    assert reward.metrics() == pytest.approx(facts)
    assert term("no").reward(rollout_of(SeenEnv(2, limit=6))).abs().max() == 0.0


def test_it_is_in_the_units_of_scaled_rewards() -> None:
    scaled = rollout_of(SeenEnv(2, limit=6))
    raw = rollout_of(SeenEnv(2, limit=6), scale_rewards=False)
    assert scaled.reward_scale != 1.0 and raw.reward_scale == 1.0
    torch.testing.assert_close(scaled.reward * scaled.reward_scale, raw.reward)
    torch.testing.assert_close(term().reward(scaled) * scaled.reward_scale, term().reward(raw))


def test_weight_probability_and_budget() -> None:
    rollout = rollout_of(SeenEnv(1, limit=8, success_at=99), scale_rewards=False)
    assert term(weight=0.04).reward(rollout)[:, 0].tolist() == pytest.approx([0.04] * 8)
    half = term().reward(rollout)[:, 0]  # of what success is worth
    assert half.tolist() == pytest.approx([0.1] * 5 + [0.0] * 3, abs=1e-6)
    assert term(budget=None).reward(rollout)[:, 0].tolist() == pytest.approx([0.1] * 8)
    assert term(cap=0.3, budget=0.7).reward(rollout)[:, 0].tolist() == pytest.approx([0.3, 0.3, 0.1] + [0.0] * 5)
    loose = ProcessRewardConfig(answer="probability", cap=1.0, budget=None)
    free = ProcessReward(tiny_model(), loose, same_features=False)
    torch.testing.assert_close(free.reward(rollout), free.model.yes(rollout.observation))


def test_a_budget_goes_on_from_one_rollout_into_the_next() -> None:
    """Episodes of six decisions, rollouts of four: 0.3 + 0.1 are paid, wherever the rollout ends, a kill between."""
    episode = [0.3, 0.1, 0.0, 0.0, 0.0, 0.0]
    whole, found = term(cap=0.3, budget=0.4), []
    collector = Collector(SeenEnv(1, limit=6, success_at=99), CollectConfig(length=4, keep="pictures"), seed=0)
    for _ in range(3):
        rollout, _ = collector.collect(policy(), None)
        found += (whole.reward(rollout)[:, 0] * rollout.reward_scale).tolist()
        again = term(cap=0.3, budget=0.4)
        again.load_state_dict(whole.state_dict())
        whole = again
    assert found == pytest.approx(2 * episode, abs=1e-6)


def test_ppo_adds_it() -> None:
    """The same seeds with and without: the rewards differ by what is paid, and PPO says so."""
    made = []
    for rewards in ([], [term()]):
        critic = ValueNet(CriticConfig(inputs=(4,), hidden=(8,)))
        source = Collector(SeenEnv(3, limit=6), CollectConfig(length=8, keep="pictures"), seed=0)
        learner = PPO(policy(), critic, [source], PPOConfig(epochs=1), iterations=3, seed=0, rewards=rewards)
        made.append((learner.step(), source.rollout))
    (_, plain), (metrics, paid) = made
    assert metrics["reward/process"] > 0
    found = (paid.reward - plain.reward)[:, 0] * paid.reward_scale
    assert found.tolist() == pytest.approx([0.1, 0.1, 0.1, 0, 0, 0, 0.1, 0.1], abs=1e-5)


def test_groups_compare_what_was_added() -> None:
    """Two worlds of one start, one of which succeeds after a step: the other has earned more when it is over."""
    env = SeenEnv(2, limit=4)
    env._infos = lambda: {"success": np.array([True, False])}  # type: ignore[method-assign]
    source = GroupCollector(env, EpisodesConfig(group=2, success_return=True), seed=0)
    half = PPOConfig(epochs=1, minibatches=1)
    learner = PPO(
        policy(), None, [source], half, iterations=1, seed=0, estimator=GroupAdvantages(), rewards=[term(cap=0.25)]
    )
    learner.step()
    assert source.rollout is not None and source.rollout.episode_return is not None
    assert source.rollout.episode_return.tolist() == pytest.approx(
        [1.25, 0.5]
    )  # success and one yes, two of four yeses
    assert (source.rollout.advantage[0, 0] > 0) and (source.rollout.advantage[0, 1] < 0)


def test_features_are_read_where_they_are_the_models_own(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "eyes")
    save_reward_model(tmp_path / "model", model)
    rollout = rollout_of(SeenEnv(2, limit=6), scale_rewards=False)
    loose = ProcessRewardConfig(answer="probability", cap=1.0, budget=None)
    seen = load_process_reward(tmp_path / "model", loose, cameras=("close",)).reward(rollout)
    kept = rollout._observation
    flat = kept.pop("images").flatten(0, 1)
    context, mask = model.features.encode(flat, rollout.sentences * len(flat))
    kept |= {"context": context.half().unflatten(0, (9, 2)), "context_mask": mask.unflatten(0, (9, 2))}
    own = load_process_reward(tmp_path / "model", loose, features=model.features)
    torch.testing.assert_close(own.reward(rollout), seen)
    assert len(seen.unique()) > 4
    with pytest.raises(InputError, match="features of its own backbone and cameras, got 'others'; keep pictures"):
        load_process_reward(tmp_path / "model").reward(rollout)
    other = FeatureSource("f" * 16, model.features.shape, model.features.encode)
    with pytest.raises(InputError, match=r"the policy's backbone, of fingerprint ffff.*train one on it"):
        load_process_reward(tmp_path / "model", features=other)
    with pytest.raises(InputError, match="a policy that sees close, got 'wrist'"):
        load_process_reward(tmp_path / "model", cameras=("wrist",))


def test_an_environment_without_success_is_refused() -> None:
    with pytest.raises(InputError, match="process reward: expected an environment that reports `success`"):
        term().reward(rollout_of(HalfSeenEnv(2)))
    with pytest.raises(InputError, match="observation: expected 'images' with 'instruction'"):
        term().reward(rollout_of(ReachEnv(2)))


def test_wrong_settings_are_named() -> None:
    for name in ("weight", "cap", "budget"):
        with pytest.raises(InputError, match=f"{name}: expected a number above 0"):
            ProcessRewardConfig(**{name: 0.0})
