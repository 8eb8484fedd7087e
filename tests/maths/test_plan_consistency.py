"""ThinkAct's reward on paths small enough to add up by hand."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.maths.plan_consistency import plan_rewards


def test_goal_and_path_of_paths_that_are_known() -> None:
    straight = np.array([[0.25, 0.0], [0.5, 0.0], [0.75, 0.0], [1.0, 0.0]])
    late = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    away = -straight
    goal, path = plan_rewards(np.stack([straight, straight, straight]), np.stack([straight, late, away]))
    assert goal.tolist() == [1.0, 1.0, 0.0]  # the last one ends 2 away
    # late: its three standing points are met by .25, .25 and .5, then .75 meets its end: 1.25 in all
    assert path[0] == 1.0 and path[1] == pytest.approx(1.0 - 1.25 / 4) and path[2] == 0.0
