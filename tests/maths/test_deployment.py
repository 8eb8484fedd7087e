"""The survey's metrics by a worked example: six successes of 5 s, four failures of 20 s, 5 s between two episodes."""

from __future__ import annotations

import pytest

from toddle.maths.deployment import deployment_metrics

SUCCESS, STEPS = [True] * 6 + [False] * 4, [50] * 6 + [200] * 4


def test_the_worked_example() -> None:
    found = deployment_metrics(SUCCESS, STEPS, 0.1, reset=5.0)
    assert found == pytest.approx(
        {"cycle_time": 5.0, "throughput": 135.0, "time_per_success": 80 / 3, "length_of_failures": 200.0}
    )
    assert found["time_per_success"] == pytest.approx(5.0 + (0.4 / 0.6) * 20.0 + 5.0 / 0.6)


def test_costs_and_help() -> None:
    """A person acts in steps 3 to 5 and 8 of 10: a share of 0.4, begun twice."""
    found = deployment_metrics([True, True], [10, 10], 0.1, cost=[3.0, 0.0], helped=[4, 4], takeovers=[2, 2])
    assert (found["intervention_rate"], found["takeovers"]) == (0.4, 2.0)
    assert (found["cost_rate"], found["costly"]) == (150.0, 0.5)


def test_what_is_not_defined_is_left_out() -> None:
    """A policy that never succeeds has no time of a cycle, not one of 0."""
    assert deployment_metrics([False] * 3, [7] * 3, 0.1) == {"throughput": 0.0, "length_of_failures": 7.0}
    assert "length_of_failures" not in deployment_metrics([True], [7], 0.1)
