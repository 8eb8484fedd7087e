"""Sequence modelling: what is predicted was not seen; it is learned, and not from another world's past."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from toddle.algorithms.cloning import Cloning, CloningConfig
from toddle.algorithms.sequence_modelling import SequenceConfig, SequenceModelling
from toddle.core.errors import InputError
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.methods._base import Start
from toddle.methods.sequence import SequenceSettings
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig


def policy(seed: int) -> CausalPolicy:
    env = make_env("dots/one", 1)
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=8)
    expert = ExpertConfig(trunk=trunk, bodies=(env.body_spec,), horizon=1, executed=1, window=4, bank_hidden=16)
    return CausalPolicy(CausalConfig(expert=expert, goal_dropout=0.0, log_std=-0.3, seed=seed))


def source() -> Collector:
    return Collector(make_env("dots/one", 16, max_episode_steps=30), CollectConfig(length=12), seed=0)


def learner(**settings: Any) -> SequenceModelling:
    given = SequenceConfig(hidden=32, learning_rate=5e-3, minibatches=2, **settings)
    return SequenceModelling(policy(1), policy(2), source(), given, sizes=(16, 2), iterations=100, seed=0)


def test_what_is_to_be_predicted_is_not_among_what_predicts_it() -> None:
    made = policy(1)
    proprio = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0))
    first = torch.zeros(6, 2, dtype=torch.bool)
    first[0] = True
    chain = torch.cat([0.3 * proprio, torch.zeros(6, 2, 1)], -1)
    seen: Any = {"proprio": proprio, "first": first, "body": torch.zeros(6, 2, dtype=torch.int64)}
    score, past, _ = made.score_and_recall(seen, chain)
    assert torch.equal(score.log_prob, made.score(seen, chain).log_prob)
    other: Any = {**seen, "proprio": proprio.clone()}
    other["proprio"][3] += 1.0
    _, changed, _ = made.score_and_recall(other, chain)
    differs = (changed - past).abs().amax((1, 2)) > 1e-6
    assert differs.tolist() == [False] * 4 + [True] * 2


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_next_place_of_a_point_is_learned_from_its_own_past_alone(shuffled: bool) -> None:
    made = learner(shuffled=shuffled)
    for _ in range(25):
        metrics = made.step()
    assert (metrics["clone/predicted"] > 0.5) != shuffled, metrics
    assert not shuffled or metrics["clone/predicted"] < 0.0


def test_without_observations_it_is_cloning_to_the_bit() -> None:
    ours = learner(observations=0.0)
    plain = CloningConfig(learning_rate=5e-3, minibatches=2)
    theirs = Cloning(policy(1), policy(2), source(), plain, iterations=100, seed=0)
    for _ in range(2):
        assert ours.step() == theirs.step()
    for name, value in theirs.student.state_dict().items():
        assert torch.equal(value, ours.student.state_dict()[name]), name


def test_a_policy_without_a_history_is_refused() -> None:
    with pytest.raises(InputError, match="policy: expected causal with a window of at least 2"):
        SequenceSettings().build(Start(envs=[make_env("dots/one", 1)], steps=10))
