"""Learning in seconds, each with a threshold and a control that must fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tiny_env import EndlessEnv, ReachEnv
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.types import BodySpec
from toddle.envs.base import BatchedEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy


def learner(env: BatchedEnv, policy: Any, iterations: int, collect: CollectConfig, **ppo: Any) -> PPO:
    critic = ValueNet(CriticConfig(inputs=(env.body_spec.proprio,), hidden=(32,)))
    settings = {"learning_rate": 5e-3, "critic_learning_rate": 5e-3, "minibatches": 4, "epochs": 4, **ppo}
    return PPO(policy, critic, [Collector(env, collect, seed=0)], PPOConfig(**settings), iterations=iterations, seed=0)


def mlp(body: BodySpec) -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(body,), hidden=(32,), log_std=-0.5))


def transformer(body: BodySpec) -> CausalPolicy:
    trunk = TrunkConfig(width=32, depth=2, heads=2, context_width=8)
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=1, executed=1, window=2, bank_hidden=32)
    return CausalPolicy(CausalConfig(expert=expert))


def final_return(env: ReachEnv, policy: Any, iterations: int, rate: float = 5e-3) -> float:
    """Mean return of the last episodes, as told by the reward that counts (distance), after training."""
    ppo = learner(env, policy, iterations, CollectConfig(length=20, discount=0.9), learning_rate=rate)
    for _ in range(iterations):
        metrics = ppo.step()
    return metrics["episode/return"] if env.informative else metrics["episode/success"]


@pytest.mark.parametrize(
    ("make", "iterations", "rate"),
    [
        pytest.param(mlp, 30, 5e-3, id="mlp"),
        pytest.param(transformer, 50, 1e-3, id="causal", marks=pytest.mark.slow),
    ],
)
def test_reaches_the_target(make: Any, iterations: int, rate: float) -> None:
    """Doing nothing returns about -21 an episode of 20 steps, a straight walk about -5."""
    env = ReachEnv(16)
    assert final_return(env, make(env.body_spec), iterations, rate) > -9.0


def test_learns_nothing_from_a_reward_without_information() -> None:
    """Control: the same learner on noise ends no nearer to the target than chance."""
    env = ReachEnv(16, informative=False)
    assert final_return(env, mlp(env.body_spec), 30) < 0.4


@pytest.mark.parametrize(("as_termination", "expected"), [(False, 10.0), (True, 2.63)])
def test_infinite_horizon(as_termination: bool, expected: float) -> None:
    """V = 1 / (1 - gamma) = 10 when the time limit of 5 steps is reported as a truncation, and NOT when it is
    reported as a termination: then the mean of (1 - gamma^k) / (1 - gamma) over k = 1..5, which is 2.63."""
    env = EndlessEnv(8, limit=5, as_termination=as_termination)
    collect = CollectConfig(length=10, discount=0.9, scale_rewards=False)
    ppo = learner(env, mlp(env.body_spec), 60, collect, critic_learning_rate=5e-2, max_grad_norm=10.0, lam=1.0)
    for _ in range(60):
        ppo.step()
    value = ppo.critic.value({"proprio": torch.full((1, 2), 0.5)})
    assert value.item() == pytest.approx(expected, rel=0.1)
