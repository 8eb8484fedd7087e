"""The generic reward against numbers worked out by hand from the formula of docs/goal_tracking.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toddle.maths.goal_reward import (
    goal_success,
    item_error,
    joint_limit_excess,
    kernel,
    reward_parts,
    total_reward,
    upright,
)


def test_kernel_by_hand() -> None:
    """e = 0: 0.5 + 0.3 + 0.2.  e = 0.1: 0.5 (1 - 0.148885) + 0.3 e^(-1/9) + 0.2 e^-1.  e = 0.3 likewise."""
    np.testing.assert_allclose(kernel(np.array([0.0])), 1.0, rtol=1e-12)
    at_tenth = 0.5 * (1 - 0.14888503) + 0.3 * 0.89483932 + 0.2 * 0.36787944
    at_three_tenths = 0.5 * (1 - 0.42189901) + 0.3 * 0.36787944 + 0.2 * 0.00012341
    np.testing.assert_allclose(kernel(np.array([0.1, 0.3])), [at_tenth, at_three_tenths], rtol=1e-7)


@given(st.floats(0, 50), st.floats(1e-3, 50))
def test_kernel_falls_from_one_to_zero(error: float, step: float) -> None:
    near, far = kernel(np.array([error, error + step]))
    assert 0.0 <= far <= near <= 1.0
    if error + step < 8.0:
        assert far < near  # the tail keeps a slope far from the target


def test_the_tail_is_what_keeps_the_slope() -> None:
    """Negative control: without the tanh the kernel is flat at e = 2."""
    step = kernel(np.array([2.0])) - kernel(np.array([2.1]))
    narrow = 0.3 * (math.exp(-((2.0 / 0.3) ** 2)) - math.exp(-((2.1 / 0.3) ** 2)))
    assert step[0] > 1e-4 > narrow


def test_error_excess_upright_by_hand() -> None:
    np.testing.assert_allclose(item_error(np.array([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]])), [5.0, 2.0])
    np.testing.assert_allclose(joint_limit_excess(np.array([[1.1, -0.5, -1.25], [1.0, -1.0, 0.0]])), [0.35, 0.0])
    np.testing.assert_allclose(upright(np.array([1.0, 0.0, -1.0])), [1.0, 0.5, 0.0])


def _inputs() -> dict[str, np.ndarray]:
    return {
        "error": np.array([[0.0, 0.3, 9.0]]),
        "weight": np.array([[0.25, 0.75, 0.0]]),
        "action": np.array([[1.0, -1.0]]),
        "previous_action": np.array([[0.0, 1.0]]),
        "torque": np.array([[1.0, 0.5, 0.0]]),
        "excess": np.array([0.04]),
        "contact": np.array([True]),
        "up_z": np.array([0.5]),
    }


def test_reward_by_hand() -> None:
    parts = reward_parts(**_inputs())
    at_three_tenths = 0.5 * (1 - 0.42189901) + 0.3 * 0.36787944 + 0.2 * 0.00012341
    assert parts["goal"][0] == pytest.approx(0.25 + 0.75 * at_three_tenths)
    assert parts["smoothness"][0] == pytest.approx(-0.02 * (1.0 + 4.0) / 2)
    assert parts["effort"][0] == pytest.approx(-0.01 * 1.25 / 3)
    assert parts["limits"][0] == pytest.approx(-0.04)
    assert parts["contact"][0] == pytest.approx(-0.1)
    assert parts["upright"][0] == pytest.approx(0.2 * 0.75)
    assert total_reward(parts)[0] == pytest.approx(sum(float(p[0]) for p in parts.values()))


def test_a_fixed_base_has_no_upright_term() -> None:
    parts = reward_parts(**(_inputs() | {"up_z": None}))
    assert "upright" not in parts


def test_a_wide_tolerance_stretches_the_kernel() -> None:
    """At tolerance 0.2 an error of 0.6 pays what 0.3 pays at 0.1."""
    wide = reward_parts(**(_inputs() | {"error": np.array([[0.0, 0.6, 9.0]])}), tolerance=0.2)
    np.testing.assert_allclose(wide["goal"], reward_parts(**_inputs())["goal"])


@given(
    st.lists(st.floats(0, 100), min_size=3, max_size=3),
    st.floats(0, 100),
    st.floats(-1, 1),
    st.booleans(),
    st.lists(st.floats(-1, 1), min_size=4, max_size=4),
)
def test_reward_is_bounded(errors: list[float], excess: float, up: float, contact: bool, numbers: list[float]) -> None:
    reward = total_reward(
        reward_parts(
            error=np.array([errors]),
            weight=np.full((1, 3), 1 / 3),
            action=np.array([numbers[:2]]),
            previous_action=np.array([numbers[2:]]),
            torque=np.array([numbers]),
            excess=np.array([excess]),
            contact=np.array([contact]),
            up_z=np.array([up]),
        )
    )
    assert -0.5 <= reward[0] <= 1.2 + 1e-9


def test_success_needs_every_item() -> None:
    error = np.array([[0.1, 0.05, 5.0], [0.11, 0.0, 0.0]])
    present = np.array([[True, True, False], [True, True, True]])
    assert goal_success(error, present).tolist() == [True, False]
    assert goal_success(error, present, 0.2).tolist() == [True, True]
