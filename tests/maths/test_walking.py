"""Commands, air time and the mean of a gait, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.maths.walking import air_time, commands, gait_velocity, made_good, mean_velocity, slope


def test_commands_by_hand() -> None:
    """Straight ahead, straight back, and turning; at the end of the curriculum and at its beginning."""
    uniform = np.array([[0.2, 0.5, 0.5, 0.9, 0.9], [0.2, 0.1, 1.0, 0.9, 0.9], [0.8, 0.5, 1.0, 0.75, 0.0]])
    wanted = [[0.12 + 0.23 / 2, 0.0, 0.0], [-0.2, 0.0, 0.0], [0.35, 0.075, -0.25]]
    np.testing.assert_allclose(commands(uniform), wanted)
    gentle = [[0.12 + 0.16 / 2, 0.0, 0.0], [-0.16, 0.0, 0.0], [0.28, 0.06, -0.2]]
    np.testing.assert_allclose(commands(uniform, 0.0), gentle)


def test_who_stands_still_follows_no_command() -> None:
    drawn = commands(np.random.default_rng(0).random((2000, 5)), 0.3)
    assert np.linalg.norm(drawn, axis=1).min() > 0.1


def test_a_long_step_earns_and_a_patter_pays() -> None:
    """Of two feet: the first lands after 1.75 or 0.25 units of time, the second stays in the air."""
    for before, paid in ((1.75, 0.3 * 1.0 / 2), (0.25, -0.3 * 0.5 / 2), (9.0, 0.3 * 1.25 / 2)):
        air, earned = air_time(np.array([[before, 0.5]]), np.array([[True, False]]), 0.2)
        np.testing.assert_allclose(air, [[0.0, 0.7]])
        np.testing.assert_allclose(earned, [paid])
    _, earned = air_time(np.zeros((1, 2)), np.ones((1, 2), bool), 0.2)  # it stood there already
    assert earned == 0.0


def test_the_mean_of_a_swaying_gait() -> None:
    """Whole periods of a sine about 0.3 are 0.3; where nothing was counted it is the present velocity."""
    sway = 0.3 + 0.5 * np.sin(2 * np.pi * np.arange(20) / 10)
    total = np.array([[sway.sum(), 0.0, 0.0], [7.0, 7.0, 7.0]])
    found = mean_velocity(total, np.array([20, 0]), np.array([[9.0, 9.0, 9.0], [0.1, 0.2, 0.3]]))
    np.testing.assert_allclose(found, [[0.3, 0.0, 0.0], [0.1, 0.2, 0.3]], atol=1e-12)


def test_the_running_mean_forgets_over_its_time() -> None:
    """From rest at a constant speed: 1 - 1 / e of it after the time of 1.5 units, however that is cut into steps."""
    for steps in (3, 30):
        mean = np.zeros((1, 3))
        for _ in range(steps):
            mean = gait_velocity(mean, np.array([[0.4, 0.0, -0.2]]), 1.5 / steps)
        np.testing.assert_allclose(mean, [[0.4 * 0.63212056, 0.0, -0.2 * 0.63212056]], rtol=1e-6)


def test_made_good_is_the_speed_along_the_command() -> None:
    velocity, command = np.array([[3.0, 4.0, 9.0]] * 3), np.array([[0.2, 0.0, 1.0], [0.3, 0.4, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(made_good(velocity, command), [3.0, 5.0, 0.0])


def test_slope_of_what_follows_by_half_and_sways() -> None:
    """Reached = 0.1 + 0.5 command; a disturbance that has nothing to do with the command changes nothing."""
    command = np.array([-1.0, 0.0, 1.0, 2.0])
    assert slope(command, 0.1 + 0.5 * command) == pytest.approx(0.5)  # some processors round the last digit otherwise
    assert slope(command, 0.1 + 0.5 * command + np.array([1.0, -1.0, -1.0, 1.0])) == pytest.approx(0.5)
    assert np.isnan(slope(np.ones(3), command[:3]))
