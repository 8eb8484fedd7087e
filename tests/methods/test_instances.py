"""GRPO, leave-one-out, guidance and a cost limit are PPO with other parts: each learns, and its control does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_env import HastyEnv, ReachEnv, StartsEnv
from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.lagrangian import CostLimit
from toddle.core.config import merged
from toddle.core.errors import InputError
from toddle.envs.base import BatchedEnv
from toddle.experience.rollout import Rollout
from toddle.methods._base import Run, build
from toddle.policies.store import save_policy
from toddle.runs.checkpoint import load_state, save_state, states_equal


def make(method: str, env: BatchedEnv, steps: int = 10**6, **changes: Any) -> Run:
    """The method with the preset for tasks of a few steps."""
    small = {"mlp": {"hidden": [32]}, "policy": "mlp"}
    return build(method, env, steps=steps, **merged(small, changes))


def train(made: Run, iterations: int) -> dict[str, float]:
    for _ in range(iterations):
        metrics = made.learner.step()
    return metrics


class Shuffled(GroupAdvantages):
    """The control: advantages of other episodes."""

    def fill(self, rollout: Rollout) -> dict[str, float]:
        metrics = super().fill(rollout)
        order = torch.randperm(rollout.worlds, generator=torch.Generator().manual_seed(0))
        rollout.advantage.copy_(rollout.advantage[:, order])
        return metrics


@pytest.mark.parametrize(
    ("policy", "method"),
    [
        ("mlp", "grpo"),
        ("mlp", "rloo"),
        *(pytest.param("tokens", name, marks=pytest.mark.slow) for name in ("grpo", "rloo")),
    ],
)
def test_groups_learn_without_a_critic(method: str, policy: str) -> None:
    """Doing nothing returns about -21 an episode of 20 steps, a straight walk about -5."""
    made = make(method, StartsEnv(64), policy=policy, tokens={"bins": 5})
    begin = train(made, 1)
    metrics = train(made, 40)
    assert begin["episode/return"] < -15.0
    assert metrics["episode/return"] > -10.0
    assert "ppo/value_loss" not in metrics and 0.0 <= metrics["group/dropped"] < 0.5


def test_with_advantages_of_others_nothing_is_learned() -> None:
    made = make("grpo", StartsEnv(64))
    made.learner.estimator = Shuffled()  # type: ignore[attr-defined]
    assert train(made, 40)["episode/return"] < -14.0


def test_worlds_of_a_group_begin_alike_and_episodes_end_in_the_mask() -> None:
    class Ending(StartsEnv):
        def _step_worlds(self, action: Any, active: Any) -> Any:
            reward, _, cut = super()._step_worlds(action, active)
            return reward, -reward < 0.7, cut  # near enough to the target

    made = make("grpo", Ending(12), episodes={"group": 4})
    learner: Any = made.learner
    rollout, metrics = learner.sources[0].collect(learner.policy, None)
    first = rollout.observation["proprio"][0]
    assert rollout.group.unique().numel() == 3
    for group in range(3):
        assert torch.equal(first[rollout.group == group], first[rollout.group == group][:1].expand(4, -1))
    lengths = rollout.mask.sum(0)
    assert torch.equal(rollout.mask, torch.arange(20)[:, None] < lengths) and lengths.min() < 20
    ends = (rollout.terminated | rollout.truncated).nonzero()
    assert torch.equal(ends[:, 0][ends[:, 1].argsort()] + 1, lengths)
    assert metrics["episode/success"] == float(rollout.success.float().mean())
    assert torch.equal(rollout.episode_return, rollout.reward.sum(0))


def test_dropped_groups_and_an_iteration_with_nothing_to_learn() -> None:
    """All fail alike by success: every group is dropped, no update is made, the next iteration goes on."""
    made = make("grpo", StartsEnv(8, limit=1), episodes={"success_return": True, "group": 4})
    before = [p.detach().clone() for p in made.policy.parameters()]
    metrics = train(made, 1)
    assert metrics["group/dropped"] == 1.0 and metrics["ppo/updates"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, made.policy.parameters(), strict=True))


@pytest.mark.parametrize("method", ["grpo", "rcpo"])
def test_resume_is_bitwise(method: str, tmp_path: Path) -> None:
    def fresh() -> Any:
        env = StartsEnv(8) if method == "grpo" else HastyEnv(8)
        return make(method, env, mlp={"hidden": [8]}).learner

    whole = fresh()
    rows = [whole.step() for _ in range(4)]
    first = fresh()
    assert [first.step() for _ in range(2)] == rows[:2]
    save_state(tmp_path / "state", first.state_dict())
    second = fresh()
    second.load_state_dict(load_state(tmp_path / "state")[0])
    assert [second.step() for _ in range(2)] == rows[2:]
    assert states_equal(second.state_dict(), whole.state_dict())


def test_a_teacher_guides(tmp_path: Path) -> None:
    """From a teacher that walks well, three iterations do what PPO alone needs many more for."""
    fast = {"ppo": {"learning_rate": 5e-3, "critic_learning_rate": 5e-3}, "collect": {"length": 20}}
    teacher = make("ppo", ReachEnv(16), **fast)
    assert train(teacher, 30)["episode/return"] > -9.0
    save_policy(tmp_path, teacher.policy)
    guided = make("rpd", ReachEnv(16), teacher=str(tmp_path), guidance=10.0, **fast)
    alone = make("rpd", ReachEnv(16), teacher=str(tmp_path), guidance=0.0, **fast)
    metrics = train(guided, 7)
    assert metrics["episode/return"] > train(alone, 7)["episode/return"] + 3.0
    assert metrics["guidance/distance"] < 0.3
    with pytest.raises(InputError, match="teacher: expected a policy folder"):
        make("rpd", ReachEnv(16))
    with pytest.raises(InputError, match="chunks of 2"):
        make("rpd", ReachEnv(16), teacher=str(tmp_path), mlp={"horizon": 2})


@pytest.mark.slow  # algorithms/test_safety.py holds a limit by the multiplier and a critic of costs
def test_a_limit_on_costs_is_kept() -> None:
    """Unlimited, an episode's haste costs over 6; with a limit of 4 it ends near it; with the multiplier at 0 not."""
    fast = {"ppo": {"learning_rate": 3e-3, "critic_learning_rate": 3e-3}, "collect": {"length": 20}}
    kept = train(make("rcpo", HastyEnv(16), limit=4.0, multiplier_rate=0.05, **fast), 60)
    free = train(make("rcpo", HastyEnv(16), limit=4.0, multiplier_rate=0.0, **fast), 60)
    assert free["episode/cost"] > 6.0
    assert kept["episode/cost"] < 5.0 and kept["cost/multiplier"] > 0.0


def test_the_multiplier_by_hand() -> None:
    rollout = Rollout.__new__(Rollout)
    rollout.columns = {"cost": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}
    rollout.terminated, rollout.truncated = torch.tensor([[False, False], [True, True]]), torch.zeros(2, 2).bool()
    rollout.mask = None
    limit = CostLimit(1.0, rate=0.5, start=2.0)
    assert limit.reward(rollout).tolist() == [[-2.0, -4.0], [-6.0, 0.0]]
    assert limit.multiplier == 2.0 + 0.5 * (3.0 - 1.0)  # six over two episodes
    assert limit.metrics() == {"cost/episode": 3.0, "cost/multiplier": 3.0}
    again = CostLimit(1.0, rate=0.5)
    again.load_state_dict(limit.state_dict())
    assert again.multiplier == 3.0
    rollout.terminated = torch.zeros(2, 2).bool()
    assert again.reward(rollout).tolist() == [[-3.0, -6.0], [-9.0, 0.0]]
    assert again.multiplier == 3.0  # none ended: nothing is known of what an episode costs
    rollout.terminated = torch.tensor([[False, False], [True, False]])
    third = CostLimit(1.0, rate=0.5)
    third.load_state_dict(again.state_dict())
    third.reward(rollout)
    assert third.metrics() == {"cost/episode": 8.0, "cost/multiplier": 6.5}  # the first world's four steps
    rollout.columns = {}
    with pytest.raises(InputError, match="cost: expected an environment that reports"):
        limit.reward(rollout)
