"""Labels of progress on trajectories made by hand: every expected step is counted on paper, or found by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import find_peaks

from toddle.core.errors import InputError
from toddle.maths.progress_labels import gripper_segments, hand_speed, key_frames, progress_labels


def opening(*runs: tuple[int, float]) -> np.ndarray:
    """(T, 1): so many steps of each value."""
    return np.concatenate([np.full(count, value) for count, value in runs])[:, None]


def test_a_gripper_that_shuts_and_opens_makes_three_segments() -> None:
    assert gripper_segments(opening((10, 1.0), (6, 0.0), (4, 1.0)), [1.0]) == [(0, 10), (10, 16), (16, 20)]


def test_a_slow_movement_is_one_change() -> None:
    """From 1 to 0 in ten steps: it has gone by more than half at 0.4, step 10 (1.0, 0.9, ... from step 4 on)."""
    ramp = np.concatenate([np.ones(4), np.linspace(1.0, 0.0, 11), np.zeros(5)])[:, None]
    assert gripper_segments(ramp, [1.0]) == [(0, 10), (10, 20)]


def test_half_the_range_and_a_short_visit_are_no_change() -> None:
    assert gripper_segments(opening((8, 1.0), (8, 0.5)), [1.0]) == [(0, 16)]
    assert gripper_segments(opening((8, 1.0), (8, 0.49)), [1.0]) == [(0, 8), (8, 16)]
    assert gripper_segments(opening((8, 1.0), (2, 0.0), (6, 1.0)), [1.0]) == [(0, 16)]  # held for two steps only
    assert gripper_segments(opening((8, 1.0), (3, 0.0), (6, 1.0)), [1.0]) == [(0, 8), (8, 11), (11, 17)]
    assert gripper_segments(opening((8, 1.0), (2, 0.0)), [1.0]) == [(0, 10)]  # the episode ends before it is held


def test_the_range_is_the_unit() -> None:
    millimetres = opening((5, 80.0), (5, 30.0))
    assert gripper_segments(millimetres, [80.0]) == [(0, 5), (5, 10)]  # 50 of 80
    assert gripper_segments(millimetres, [200.0]) == [(0, 10)]
    assert gripper_segments(millimetres, [80.0], change=0.7) == [(0, 10)]


def test_no_gripper_one_that_never_moves_and_two() -> None:
    assert gripper_segments(np.zeros((7, 0)), []) == [(0, 7)]
    assert gripper_segments(opening((7, 0.3)), [0.0]) == [(0, 7)]
    left, right = opening((5, 1.0), (10, 0.0)), opening((9, 0.0), (6, 1.0))
    assert gripper_segments(np.hstack([left, right]), [1.0, 1.0]) == [(0, 5), (5, 9), (9, 15)]
    assert gripper_segments(opening((1, 1.0)), [1.0]) == [(0, 1)]  # shorter than `hold`


def test_speed_is_the_way_to_the_next_step() -> None:
    path = np.array([[0, 0, 0], [3, 4, 0], [3, 4, 0], [3, 4, 2]], float)
    assert hand_speed(path).tolist() == [5.0, 0.0, 2.0, 2.0]
    assert hand_speed(path[:1]).tolist() == [0.0]


def stops(*runs: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(count, value) for count, value in runs])


def test_a_rest_is_marked_at_its_first_step() -> None:
    speed = stops((12, 1.0), (4, 0.0), (14, 1.0))  # median 1: rests below 0.1
    assert key_frames(speed, [(0, 30)]).tolist() == [12]
    assert np.flatnonzero(progress_labels(30, [12])).tolist() == [7, 8, 9, 10, 11]


def test_only_what_all_but_stands_still_counts() -> None:
    """0.11 is slow, 0.09 is a rest; a minimum at exactly a tenth of the median is none."""
    speed = stops((10, 1.0), (1, 0.11), (10, 1.0), (1, 0.09), (10, 1.0), (1, 0.1), (10, 1.0))
    assert key_frames(speed, [(0, len(speed))]).tolist() == [21]
    assert key_frames(speed, [(0, len(speed))], still=0.2).tolist() == [10, 21, 32]


def test_the_start_is_none_and_the_end_is_one() -> None:
    """The hand sets off from rest, and stops at the end of the segment, before the gripper shuts at step 20."""
    speed = stops((3, 0.0), (15, 1.0), (2, 0.0), (12, 1.0))
    assert key_frames(speed, [(0, 20), (20, 32)]).tolist() == [18]
    late = stops((4, 1.0), (1, 0.0), (20, 1.0))
    assert key_frames(late, [(0, 25)]).tolist() == []  # step 4 is among the first five
    assert key_frames(late, [(0, 25)], skip=4).tolist() == [4]
    assert key_frames(stops((20, 1.0), (8, 0.0)), [(0, 20), (20, 28)]).tolist() == []  # it rests since it began


def test_a_hand_that_comes_to_rest_after_its_gripper_was_told_to_shut_has_arrived() -> None:
    """The command comes at step 20, two steps before the rest: only the episode's first steps are left out."""
    speed = stops((22, 1.0), (3, 0.0), (10, 1.0))
    assert key_frames(speed, [(0, 20), (20, 35)]).tolist() == [22]


def test_of_two_close_rests_the_slower_stays() -> None:
    speed = stops((10, 1.0), (1, 0.05), (6, 1.0), (1, 0.02), (12, 1.0))  # steps 10 and 17, seven apart
    assert key_frames(speed, [(0, 30)]).tolist() == [17]
    assert key_frames(speed, [(0, 30)], gap=7).tolist() == [10, 17]


def test_scipy_finds_the_same_minima() -> None:
    """An independent implementation, where it is defined alike: no plateau, and neither end is a minimum."""
    found = 0
    for seed in range(40):
        speed = np.random.default_rng(seed).gamma(0.6, size=200)
        speed[[0, -1]] = 10.0
        peaks, _ = find_peaks(-speed, height=-0.1 * np.median(speed), distance=8)
        mine = key_frames(speed, [(0, 200)], skip=0)
        assert mine.tolist() == peaks[-speed[peaks] > -0.1 * np.median(speed)].tolist()
        found += len(mine)
    assert found > 200


def test_labels_of_neighbours_join_and_stop_at_the_start() -> None:
    assert np.flatnonzero(progress_labels(12, [3, 8], window=4)).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert not progress_labels(6, []).any() and not progress_labels(6, [0]).any()


def test_short_and_constant_episodes_have_no_key_frame() -> None:
    for speed in (np.zeros(40), np.ones(40), np.ones(1), np.zeros(3)):
        assert key_frames(speed, [(0, len(speed))]).tolist() == []
    mostly_still = stops((10, 1.0), (30, 0.0))  # a median of 0: nothing is below it
    assert key_frames(mostly_still, [(0, 40)]).tolist() == []


def test_scale_does_not_matter() -> None:
    speed = np.random.default_rng(1).gamma(0.6, size=120)
    for factor in (1e-3, 50.0):
        np.testing.assert_array_equal(key_frames(factor * speed, [(0, 120)]), key_frames(speed, [(0, 120)]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    path, shut = np.zeros((5, 3)), opening((5, 1.0))
    path[2, 1] = shut[2, 0] = value
    with pytest.raises(InputError, match="path: expected finite numbers"):
        hand_speed(path)
    with pytest.raises(InputError, match="opening: expected finite numbers"):
        gripper_segments(shut, [1.0])
    with pytest.raises(InputError, match="speed: expected finite numbers"):
        key_frames(path[:, 1], [(0, 5)])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"opening: expected shape \(steps, grippers\)"):
        gripper_segments(np.zeros(5), [1.0])
    with pytest.raises(InputError, match="1 ranges of at least 0"):
        gripper_segments(np.zeros((5, 1)), [1.0, 1.0])
    with pytest.raises(InputError, match="1 ranges of at least 0"):
        gripper_segments(np.zeros((5, 1)), [-1.0])
    with pytest.raises(InputError, match="path: expected 2 dimensions and at least one step"):
        hand_speed(np.zeros((0, 3)))
