"""Smoothness against the numbers of the SPARC reference and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.maths.smoothness import (
    dimensionless_jerk,
    log_dimensionless_jerk,
    mean_squared_jerk,
    no_op_count,
    resample,
    spectral_arc_length,
)

BUMP = np.exp(-5.0 * np.arange(-1.0, 1.0, 0.01) ** 2)
"""The example of the reference implementation (siva82kb/SPARC): a Gaussian bump sampled at 100 Hz."""


def minimum_jerk(steps: int) -> np.ndarray:
    """Flash & Hogan 1985: x(s) = 10 s^3 - 15 s^4 + 6 s^5."""
    s = np.linspace(0.0, 1.0, steps)
    return 10 * s**3 - 15 * s**4 + 6 * s**5


def trapezoid(steps: int) -> np.ndarray:
    """Positions of a trapezoidal speed profile of the same duration and distance."""
    s = np.linspace(0.0, 1.0, steps)
    speed = np.minimum(np.minimum(s, 1.0 - s) / 0.25, 1.0)
    path = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]))])
    return path / path[-1]


def test_reference_numbers() -> None:
    assert dimensionless_jerk(BUMP, 0.01) == pytest.approx(-335.74684, abs=1e-4)
    assert log_dimensionless_jerk(BUMP, 0.01) == pytest.approx(-5.81636, abs=1e-5)
    assert spectral_arc_length(BUMP, 0.01) == pytest.approx(-1.41403, abs=1e-5)


def test_constant_velocity_has_no_jerk() -> None:
    path = np.outer(np.arange(20) * 0.05, [1.0, -2.0, 0.5])
    assert mean_squared_jerk(path, 0.05) == pytest.approx(0.0, abs=1e-12)
    assert log_dimensionless_jerk(np.full(20, 0.3), 0.05) == float("inf")


def test_jerk_of_a_cubic_is_six() -> None:
    """p = t^3 has d^3p/dt^3 = 6, and a third difference is exact for a cubic."""
    path = (np.arange(9) * 0.1)[:, None] ** 3
    assert mean_squared_jerk(path, 0.1) == pytest.approx(36.0)


def test_minimum_jerk_beats_a_trapezoid() -> None:
    smooth, rough = minimum_jerk(101)[:, None], trapezoid(101)[:, None]
    assert mean_squared_jerk(smooth, 0.01) < mean_squared_jerk(rough, 0.01)


def test_scaling() -> None:
    path = np.random.default_rng(0).normal(size=(30, 3))
    assert mean_squared_jerk(3.0 * path, 0.1) == pytest.approx(9.0 * mean_squared_jerk(path, 0.1))
    assert mean_squared_jerk(path, 0.05) == pytest.approx(64.0 * mean_squared_jerk(path, 0.1))
    assert spectral_arc_length(7.0 * BUMP, 0.01) == pytest.approx(spectral_arc_length(BUMP, 0.01))
    assert dimensionless_jerk(7.0 * BUMP, 0.01) == pytest.approx(dimensionless_jerk(BUMP, 0.01))
    assert dimensionless_jerk(BUMP, 0.02) == pytest.approx(dimensionless_jerk(BUMP, 0.01))


def test_tremor_lowers_every_measure() -> None:
    rough = BUMP + 0.1 * np.sin(2 * np.pi * 6.0 * np.arange(len(BUMP)) * 0.01)
    assert log_dimensionless_jerk(rough, 0.01) < log_dimensionless_jerk(BUMP, 0.01)
    assert spectral_arc_length(rough, 0.01) < spectral_arc_length(BUMP, 0.01)


def test_resample_keeps_ends_and_lines() -> None:
    line = np.outer(np.arange(5.0), [1.0, 2.0])
    assert np.allclose(resample(line, 9), np.outer(np.linspace(0, 4, 9), [1.0, 2.0]))


def test_no_ops_by_hand() -> None:
    actions = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, -1], [0.5, 0, 0, -1], [0, 0, 5e-5, -1]]
    assert no_op_count(actions) == 3  # the third closes the gripper, the fourth moves


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError):
        mean_squared_jerk(np.zeros((3, 3)), 0.1)
    with pytest.raises(InputError):
        dimensionless_jerk(np.zeros(10), 0.1)
