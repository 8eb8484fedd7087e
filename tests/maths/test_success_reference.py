"""Rewards of failures beside successes: the paper's table of values, and what no rescaling or order may change."""

from __future__ import annotations

import pytest
import torch

from toddle.maths.success_reference import success_reference_rewards

TASK = torch.zeros(6, dtype=torch.int64)


def test_the_values_of_the_formula() -> None:
    """0.6 sigmoid(10 (1/2 - z)) at z = 0, 1/4, 1/2, 3/4, 1, by another program."""
    line = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])[:, None]
    success = torch.tensor([True, False, False, False, False, False])
    found = success_reference_rewards(line, success, TASK)
    assert found.tolist() == pytest.approx([1.0, 0.595984, 0.554485, 0.3, 0.045515, 0.004016], abs=1e-6)


def test_the_nearest_success_counts_and_units_do_not() -> None:
    """Two ways of doing a task: a failure near either is near, one between them (at their mean) is far."""
    seen = torch.tensor([[-10.0, 1.0], [10.0, -1.0], [-9.0, 0.9], [9.0, -0.8], [0.0, 0.0], [5.0, -0.5]])
    success = torch.tensor([True, True, False, False, False, False])
    found = success_reference_rewards(seen, success, TASK)
    assert found[4] == found[2:].min() and found[2] > 0.5 and found[3] > 0.3
    torch.testing.assert_close(success_reference_rewards(seen * torch.tensor([3.0, 0.01]), success, TASK), found)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(success_reference_rewards(seen[order], success[order], TASK), found[order])


def test_tasks_do_not_mix_and_without_a_success_nothing_is_paid() -> None:
    seen, success = torch.randn(6, 3), torch.tensor([True, False, False, False, False, False])
    task = torch.tensor([0, 0, 0, 1, 1, 1])
    found = success_reference_rewards(seen, success, task)
    assert found[3:].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(found[:3], success_reference_rewards(seen[:3], success[:3], task[:3]))
    assert success_reference_rewards(seen, torch.ones(6, dtype=torch.bool), task).tolist() == [1.0] * 6
    one = torch.tensor([True, True, True, True, True, False])
    assert success_reference_rewards(seen, one, TASK)[-1] == pytest.approx(0.3)
