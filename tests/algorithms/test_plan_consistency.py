"""Thoughts are paid once an episode, the mean; what is right is paid most, and others' thoughts are not right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.algorithms.test_own_successes import played

from toddle.algorithms.plan_consistency import PlanConsistency
from toddle.experience.rollout import Rollout


class Said:
    """What is said, as it is: chains are a thought of two numbers and four actions of two."""

    def parted(self, chain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return thought and chunk."""
        return chain[..., :2], chain[..., 2:].unflatten(-1, (4, 2))


def whole(lengths: list[int], thoughts: torch.Tensor, actions: torch.Tensor) -> Rollout:
    """Whole episodes of worlds that say (2,) thoughts and always make their own action (2,)."""
    rollout = played(0, max(lengths), worlds=len(lengths))
    rollout.mask = torch.arange(max(lengths))[:, None] < torch.tensor(lengths)
    rollout.chain = torch.cat([thoughts, actions.repeat(1, 4)], 1).expand(max(lengths), -1, -1).clone()
    return rollout


def term(control: str = "none", **given: Any) -> PlanConsistency:
    options: dict[str, Any] = {"weight": 1.0, "goal": 0.5, "control": control, "seed": 0} | given
    return PlanConsistency(Said(), slice(0, 2), **options)


def test_a_right_thought_is_paid_its_weight_at_the_end_however_long_the_episode() -> None:
    same = torch.tensor([[0.5, -0.25], [1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[0.5, -0.25], [1.0, 0.0], [-1.0, 0.0]])
    rollout = whole([2, 5, 3], same, other)
    added = term(weight=0.5).reward(rollout)
    assert added.nonzero().tolist() == [[1, 0], [2, 2], [4, 1]]
    # the third says the other way: its end is sqrt 2 off, its points (1 + 2 + 3 + 4) / 4 / 4 sqrt 2 on average
    wrong = 0.5 * 0.5 * (1.0 - 2.0**0.5 * 10.0 / 16.0)
    assert added[1, 0] == pytest.approx(0.5) and added[4, 1] == pytest.approx(0.5)
    assert added[2, 2] == pytest.approx(wrong, rel=1e-4)
    rollout.steps = torch.full((5, 3), 4)
    assert torch.equal(term(weight=0.5).reward(rollout), added)


def test_the_control_pays_for_others_thoughts_and_goes_on_after_a_kill() -> None:
    said = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    rollout = whole([2] * 40, said, said)
    right, control = term(), term("shuffled")
    assert float(right.reward(rollout).sum()) == pytest.approx(40.0, rel=1e-5)
    first = float(control.reward(rollout).sum())
    assert first < 32.0 and right.metrics()["reward/plan_goal"] == pytest.approx(1.0)
    again = term("shuffled")
    again.load_state_dict(control.state_dict())
    assert torch.equal(again.reward(rollout), control.reward(rollout))
