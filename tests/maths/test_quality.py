"""Numbers of demonstrations: hand arithmetic, closed forms, and sets whose answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from toddle.maths.quality import (
    crossings,
    idle_share,
    lag,
    late_shift,
    mode_count,
    path_efficiency,
    phase_deviation,
    phase_variance,
    saturated_share,
    share_of_worse,
    silhouette,
)


def test_an_episode_by_hand() -> None:
    assert path_efficiency([[0, 0], [3, 0], [3, 4]]) == pytest.approx(5 / 7)
    assert np.isnan(path_efficiency([[1, 1], [1, 1]]))
    assert idle_share([0, 0, 0.04, 1, 1, 1, 1, 1, 1, 1]) == pytest.approx(0.3)
    assert idle_share([0.0, 0.0]) == 1.0
    # the constant number counts for nothing; of 6 others the two 1s and the -1 lie at a bound
    actions = [[1, 0.2, 5], [0.5, -1, 5], [1, 0.3, 5]]
    assert saturated_share(actions, [0, -1, 5], [1, 1, 5]) == pytest.approx(3 / 6)
    assert crossings([0, 1, 1, 0, 0.4, 0.9], 0.5) == 3


def test_variance_over_phase_is_the_mean_of_what_each_episode_is_off() -> None:
    profiles = np.array([[[0.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [1.0, 4.0]]])  # two episodes, two phases
    assert phase_variance(profiles) == pytest.approx([0.5, 2.0])  # (1 + 0) / 2, (0 + 4) / 2
    assert phase_deviation(profiles) == pytest.approx([1.25, 1.25])
    many = np.random.default_rng(0).normal(size=(7, 5, 3))
    assert phase_deviation(many).mean() == pytest.approx(phase_variance(many).mean())


def test_silhouette_by_hand() -> None:
    between = cdist([[0.0], [1.0], [5.0]], [[0.0], [1.0], [5.0]])
    # 0: a 1, b 5 -> 0.8; 1: a 1, b 4 -> 0.75; alone -> 0
    assert silhouette(between, [0, 0, 1]) == pytest.approx((0.8 + 0.75) / 3)


@pytest.mark.parametrize("bundles", [1, 2, 3])
def test_modes_are_bundles_and_no_halves_of_one_spread(bundles: int) -> None:
    rng = np.random.default_rng(0)
    ways = np.concatenate([rng.normal(4.0 * bundle, 0.3, (12, 6)) for bundle in range(bundles)])
    assert mode_count(cdist(ways, ways)) == bundles
    line = np.linspace(0, 1, 24)[:, None] * np.ones(6)  # goals along a line
    assert mode_count(cdist(line, line)) == 1
    outlier = np.concatenate([ways[:12], [[40.0] * 6]])
    assert mode_count(cdist(outlier, outlier)) == 1


def test_share_of_worse() -> None:
    assert share_of_worse([1, 3, 2, np.nan], True) == pytest.approx([1.0, 0.0, 0.5, np.nan], nan_ok=True)
    assert share_of_worse([1, 3, 2, np.nan], False) == pytest.approx([0.0, 1.0, 0.5, np.nan], nan_ok=True)
    assert share_of_worse([4, 4, 4], True) == pytest.approx([0.5, 0.5, 0.5])
    assert share_of_worse([7], True) == pytest.approx([0.5])


def test_a_shift_is_seen_and_scatter_is_not() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2))
    values[20:, 1] += 10.0
    shift, errors = late_shift(values)
    assert abs(shift[1] - 10.0) < 1.5 and abs(errors[1]) > 5.0 > abs(errors[0])
    assert np.isnan(late_shift(values[:5])[1]).all()


def test_lag_finds_how_late_a_picture_is() -> None:
    motion = np.random.default_rng(0).normal(size=40)
    late = np.concatenate([np.zeros(3), motion[:-3]])
    by, there, without = lag(late, motion, 5)
    assert by == 3 and there == pytest.approx(1.0) and abs(without) < 0.5
    assert lag(motion, motion, 5)[0] == 0
    assert lag(np.zeros(40), motion, 5) == (0, 0.0, 0.0)
