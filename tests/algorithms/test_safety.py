"""A limit on costs by a multiplier and a critic of costs: kept, off bitwise, blind to a rollout's length, resumable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_env import HastyEnv, ReachEnv
from toddle.algorithms.ppo import PPOConfig
from toddle.algorithms.safety import CostConstraint, LagrangianSettings
from toddle.core.errors import InputError
from toddle.experience.collect import CollectConfig
from toddle.experience.rollout import Rollout
from toddle.methods._actors import MlpSettings
from toddle.methods._base import Run, Safety, Start
from toddle.methods.ppo import PPOSettings
from toddle.runs.checkpoint import load_state, save_state, states_equal

FAST = PPOSettings(
    policy="mlp",
    mlp=MlpSettings(hidden=(32,)),
    ppo=PPOConfig(epochs=4, minibatches=2, learning_rate=3e-3, critic_learning_rate=3e-3, target_kl=0.1),
    collect=CollectConfig(length=20, discount=0.99),
)


def make(limit: float | None, *, length: int = 20, moves: bool = True, **settings: Any) -> Run:
    """PPO under a limit (None: without one); moves: whether the policy learns."""
    safety = None if limit is None else Safety(limit=limit, settings=LagrangianSettings(**settings))
    start = Start(envs=[HastyEnv(16)], steps=10**6, safety=safety)
    ppo = FAST.ppo if moves else replace(FAST.ppo, critic_warm_up=10**6)
    return replace(FAST, ppo=ppo, collect=replace(FAST.collect, length=length)).build(start)


def rows(made: Run, iterations: int) -> list[dict[str, float]]:
    return [made.learner.step() for _ in range(iterations)]


def test_a_limit_is_held_and_the_critic_of_costs_learns() -> None:
    """Unlimited, an episode's haste costs over 6."""
    found = rows(make(4.0, rate=0.1), 60)
    late = [row["episode/cost"] for row in found[-10:]]
    assert sum(late) / 10 == pytest.approx(4.0, abs=0.8)
    assert all(row["cost/explained_variance"] > 0.0 for row in found[10:])
    assert found[-1]["cost/multiplier"] > 0.0


def test_without_a_multiplier_it_is_ppo_bitwise() -> None:
    off, plain = make(1.0, rate=0.0), make(None)
    assert off.safe and not plain.safe
    rows(off, 3), rows(plain, 3)
    assert states_equal(dict(off.policy.state_dict()), dict(plain.policy.state_dict()))


def test_costs_are_counted_by_episode_whatever_the_rollouts_length() -> None:
    """Twice as many rollouts of half the length: the same episodes, the same cost."""
    whole, halves = make(1e6, moves=False), make(1e6, moves=False, length=10)
    assert rows(whole, 2)[-1]["cost/episode"] == pytest.approx(rows(halves, 4)[-1]["cost/episode"], rel=0.15)


def test_resume_is_bitwise(tmp_path: Path) -> None:
    whole = make(2.0, proportional=0.5).learner
    expected = [whole.step() for _ in range(4)]
    first = make(2.0, proportional=0.5).learner
    assert [first.step() for _ in range(2)] == expected[:2]
    save_state(tmp_path / "state", first.state_dict())
    second = make(2.0, proportional=0.5).learner
    second.load_state_dict(load_state(tmp_path / "state")[0])
    assert [second.step() for _ in range(2)] == expected[2:]
    assert states_equal(second.state_dict(), whole.state_dict())


def test_the_multiplier_waits_while_only_critics_learn() -> None:
    start = Start(envs=[HastyEnv(16)], steps=10**6, safety=Safety(limit=0.0, settings=LagrangianSettings()))
    found = rows(replace(FAST, ppo=replace(FAST.ppo, critic_warm_up=2)).build(start), 3)
    assert [row["cost/multiplier"] > 0.0 for row in found] == [False, False, True]


def test_what_reports_no_cost_is_refused() -> None:
    limit = Safety(limit=1.0, settings=LagrangianSettings())
    with pytest.raises(InputError, match="cost: expected an environment that reports `cost`"):
        FAST.build(Start(envs=[ReachEnv(4)], steps=1000, safety=limit)).learner.step()
    with pytest.raises(InputError, match="safety: expected none with several environments"):
        FAST.build(Start(envs=[HastyEnv(4), HastyEnv(4)], steps=1000, safety=limit))


@pytest.mark.slow
def test_costs_of_other_worlds_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the multiplier rises all the same, and the cost stays what it is without a limit."""
    mix = CostConstraint._advantages

    def shuffled(part: CostConstraint, rollout: Rollout, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return mix(part, rollout, cost[:, torch.randperm(cost.shape[1], generator=part.generator)])

    monkeypatch.setattr(CostConstraint, "_advantages", shuffled)
    late = [row["episode/cost"] for row in rows(make(4.0, rate=0.1), 60)[-10:]]
    assert sum(late) / 10 > 5.5
