"""Numbers of a world model: expected values by hand and from W13's closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toddle.maths.world_models import alarm_level, calibration, counted, disagreement, error_over_copy, firing_level


def test_disagreement_is_the_spread_of_the_members() -> None:
    two = torch.tensor([[[0.0, 0.0], [1.0, 5.0]], [[2.0, 0.0], [1.0, 5.0]]])  # (K 2, B 2, D 2)
    assert disagreement(two).tolist() == pytest.approx([math.sqrt(0.5), 0.0])  # variances 1 and 0, their mean 1/2
    assert disagreement(3.0 * two).tolist() == pytest.approx([3.0 * math.sqrt(0.5), 0.0])
    many = torch.randn(5, 40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(disagreement(many).square().mean()) == pytest.approx(0.8, abs=0.01)  # t^2 (K - 1) / K


def test_what_is_seen_counts_twice_what_is_felt_by_its_share_of_the_variance() -> None:
    weight = counted(torch.tensor([5.0, 0.0, 0.1, 3.0, 1.0]), 3)
    assert weight.tolist() == pytest.approx([1.0, 0.0, 1.0, 3.0, 1.0])  # 2 * 2 * 3/4 and 2 * 2 * 1/4
    assert counted(torch.tensor([2.0, 0.0]), 2).tolist() == [1.0, 0.0]
    apart = torch.tensor([[[1.0, 0.0, 0.0, 0.0, 1.0]], [[-1.0, 0.0, 0.0, 0.0, -1.0]]])
    assert disagreement(apart, weight).item() == pytest.approx(math.sqrt((1.0 + 1.0) / 6.0))


def test_error_is_measured_in_errors_of_doing_nothing() -> None:
    first = np.zeros((2, 1))
    truth = np.array([[[1.0], [2.0]], [[1.0], [np.nan]]])  # the second episode was over
    assert error_over_copy(np.zeros((2, 2, 1)), truth, first) == pytest.approx([1.0, 1.0])
    assert error_over_copy(np.array([[[1.0], [1.0]], [[0.0], [9.0]]]), truth, first) == pytest.approx([0.5**0.5, 0.5])
    assert error_over_copy(np.nan_to_num(truth), truth, first) == pytest.approx([0.0, 0.0])


def test_calibration_of_gaussian_errors() -> None:
    draw = np.random.default_rng(0)
    spread = draw.uniform(0.5, 2.0, 50_000)
    found = calibration(spread, np.abs(2.0 * spread * draw.normal(size=50_000)))
    assert found.scale == pytest.approx(2.0, rel=0.02) and found.coverage == pytest.approx(0.90, abs=0.01)
    assert found.rank > 0.3
    shuffled = calibration(spread, np.abs(draw.normal(size=50_000)))
    assert abs(shuffled.rank) < 0.02
    assert math.isnan(calibration(np.zeros(3), np.ones(3)).scale)


@pytest.mark.parametrize(("count", "alarm", "rank"), [(19, 0.05, 19), (99, 0.1, 90), (199, 0.05, 190)])
def test_alarm_level_has_its_rank(count: int, alarm: float, rank: int) -> None:
    scores = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    assert alarm_level(scores, alarm) == rank
    assert alarm_level(scores[:5], 0.05) == math.inf  # five cannot promise one alarm in twenty


def test_alarm_level_keeps_its_promise() -> None:
    draw = np.random.default_rng(1)
    fresh = [draw.normal() > alarm_level(draw.normal(size=19), 0.1) for _ in range(4000)]
    assert np.mean(fresh) == pytest.approx(0.1, abs=0.02)


def test_firing_level_has_the_best_f1() -> None:
    found = firing_level([0.9, 0.8, 0.7, 0.6, 0.1], [1, 0, 1, 0, 0])
    assert found.level == 0.7 and (found.precision, found.recall) == pytest.approx((2 / 3, 1.0))
    assert found.f1 == pytest.approx(0.8)
    same = firing_level([0.5, 0.5, 0.5], [1, 0, 0])
    assert (same.precision, same.recall) == pytest.approx((1 / 3, 1.0))  # equal scores fire together
    assert firing_level([0.2], [0]).level == math.inf
