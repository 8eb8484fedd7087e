"""Intervals against published tables, scipy, hand arithmetic, and the share of times they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from toddle.core.errors import InputError
from toddle.maths.intervals import (
    matched_interval,
    ratio_interval,
    sign_flip_p,
    t_interval,
    t_p,
    welch_interval,
    wilson_interval,
)


def test_wilson_matches_the_published_example() -> None:
    """Newcombe 1998, table I, method 3 (score): 81/263 -> .2553 .3662; 15/148 -> .0624 .1605; 0/20 -> 0 .1611."""
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = wilson_interval(successes, trials)
        assert interval.value == pytest.approx(successes / trials)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_equals_scipy() -> None:
    for successes, trials, level in ((0, 7, 0.9), (7, 7, 0.95), (3, 50, 0.99), (49, 50, 0.95)):
        oracle = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
        assert wilson_interval(successes, trials, level)[1:] == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_wilson_refuses_impossible_counts() -> None:
    for successes, trials in ((0, 0), (5, 4), (-1, 4)):
        with pytest.raises(InputError):
            wilson_interval(successes, trials)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).binomial(30, 0.8, size=2000)
    covered = np.mean([wilson_interval(int(k), 30).low <= 0.8 <= wilson_interval(int(k), 30).high for k in draws])
    assert 0.92 < covered < 0.98


def coverage(draws: np.ndarray, truth: float = 0.0) -> float:
    """Share of the draws (N, S) or (N, S, K) whose interval holds the truth."""
    intervals = [t_interval(draw) for draw in draws]
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


@pytest.mark.parametrize("seeds", [3, 5, 10, 12])
def test_t_covers_95_of_100(seeds: int) -> None:
    assert 0.93 <= coverage(np.random.default_rng(seeds).normal(size=(4000, seeds))) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 10, 12])
@pytest.mark.parametrize(("tasks", "of_seed", "of_task"), [(4, 1.0, 1.0), (4, 2.0, 0.5), (6, 0.5, 2.0)])
def test_two_ways_cover_95_of_100(seeds: int, tasks: int, of_seed: float, of_task: float) -> None:
    """Cells of one seed share its policy and cells of one task its demonstrations."""
    generator = np.random.default_rng(100 * seeds + tasks)
    draws = (
        of_seed * generator.normal(size=(4000, seeds, 1))
        + of_task * generator.normal(size=(4000, 1, tasks))
        + generator.normal(size=(4000, seeds, tasks))
    )
    assert 0.93 <= coverage(draws) <= 0.97


def test_cells_taken_for_units_do_not_cover() -> None:
    """The control: twelve pairs of seed and task are not twelve independent units; nor does a bootstrap of three do."""
    generator = np.random.default_rng(0)
    draws = (
        generator.normal(size=(2000, 3, 1)) + generator.normal(size=(2000, 1, 4)) + generator.normal(size=(2000, 3, 4))
    )
    assert coverage(draws.reshape(2000, 12)) < 0.85
    three = generator.normal(size=(2000, 3))
    resampled = three[:, generator.integers(0, 3, size=(1000, 3))].mean(2)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.80


def test_shares_of_episodes_are_covered_too() -> None:
    """Not normal: 20 episodes a cell, rates that differ by seed and task; the truth is their mean."""
    generator = np.random.default_rng(7)
    logit = 0.5 + 0.6 * generator.normal(size=(3000, 5, 1)) + 0.6 * generator.normal(size=(3000, 1, 4))
    rates = 1.0 / (1.0 + np.exp(-logit))
    truth = float(np.mean(1.0 / (1.0 + np.exp(-(0.5 + np.sqrt(0.72) * generator.normal(size=1_000_000))))))
    draws = generator.binomial(20, np.broadcast_to(rates, (3000, 5, 4))) / 20
    assert 0.92 <= coverage(draws, truth) <= 0.98


def test_t_equals_scipy_and_hand_arithmetic() -> None:
    values = [1.0, 2.0, 6.0]  # mean 3, s = sqrt(7), t(2) = 4.3027
    interval = t_interval(values)
    assert interval == pytest.approx((3.0, 3 - 4.302653 * math.sqrt(7 / 3), 3 + 4.302653 * math.sqrt(7 / 3)), rel=1e-6)
    oracle = scipy.stats.ttest_1samp(values, 0.5, alternative="greater")
    assert t_p(values, line=0.5) == pytest.approx(oracle.pvalue)


def test_two_ways_by_hand() -> None:
    """[[1, 3], [5, 7]]: seeds' means 2, 6 (MS 2 x 8 = 16), tasks' 3, 5 (MS 2 x 2 = 4): Var = 20 / 4, df = 400 / 272."""
    freedom = 20**2 / (16**2 + 4**2)
    half = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(5.0)
    assert t_interval([[1.0, 3.0], [5.0, 7.0]]) == pytest.approx((4.0, 4.0 - half, 4.0 + half))
    assert t_p([[1.0, 3.0], [5.0, 7.0]]) == pytest.approx(scipy.stats.t.sf(4.0 / math.sqrt(5.0), freedom))


def test_one_seed_says_nothing_of_the_spread() -> None:
    for values in ([0.7], [[0.7, 0.9]]):
        interval = t_interval(values)
        assert interval.low == -math.inf and interval.high == math.inf
        assert t_p(values) == 1.0
    assert t_interval([[1.0], [2.0], [6.0]]) == t_interval([1.0, 2.0, 6.0])  # one task is no second way
    for wrong in ([], [1.0, math.nan], [[[1.0]]]):
        with pytest.raises(InputError, match="values: expected"):
            t_interval(wrong)


def test_welch_equals_scipy() -> None:
    a, b = [1.0, 4.0, 2.5, 3.0], [0.0, 0.5, 9.0]
    oracle = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    interval = welch_interval(a, b)
    assert interval[1:] == pytest.approx((oracle.low, oracle.high))
    assert interval.value == pytest.approx(np.mean(a) - np.mean(b))


def test_sign_flips_are_exact() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0]) == pytest.approx(1 / 8)
    assert sign_flip_p([[1.0, 3.0], [2.0, 2.0], [3.0, 9.0]]) == pytest.approx(1 / 8)  # a seed's cells flip together
    assert sign_flip_p([2.0, 3.0, 4.0], line=1.0) == pytest.approx(1 / 8)
    values = np.array([1.0, -0.5, 2.0, 0.3, 0.9])
    oracle = scipy.stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert sign_flip_p(values) == pytest.approx(oracle.pvalue)
    gained_9_lost_2 = [1.0] * 9 + [-1.0] * 2 + [0.0] * 30  # McNemar's exact test: P(X >= 9 of 11)
    assert sign_flip_p(gained_9_lost_2) == pytest.approx(scipy.stats.binom.sf(8, 11, 0.5))
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_matched_proportions_by_hand() -> None:
    """9 gained, 3 lost, 41 the same: Wald's interval after half an episode more in each of the four cells."""
    first = [1.0] * 9 + [0.0] * 3 + [1.0] * 16 + [0.0] * 25
    second = [0.0] * 9 + [1.0] * 3 + [1.0] * 16 + [0.0] * 25
    interval = matched_interval(first, second)
    assert interval.value == pytest.approx(6 / 53)
    half = 1.959964 * math.sqrt(9.5 + 3.5 - 36 / 55) / 55
    assert interval[1:] == pytest.approx((6 / 55 - half, 6 / 55 + half), rel=1e-6)
    agree = matched_interval([1.0] * 10, [1.0] * 10)
    assert agree.value == 0.0 and agree.low < -0.1 and agree.high > 0.1  # ten equal pairs are no certainty
    shares = matched_interval([0.5, 1.0, 0.25], [0.25, 0.5, 0.25])
    assert shares == t_interval([0.25, 0.5, 0.0])


def test_pairing_removes_what_the_seeds_share() -> None:
    generator = np.random.default_rng(4)
    shared = generator.normal(0.0, 10.0, size=8)
    a, b = shared + 1.0 + generator.normal(0, 0.1, 8), shared
    assert 0.8 < t_interval(a - b).low < t_interval(a - b).high < 1.2
    broken = t_interval(a - b[::-1])  # pairs broken: the shared part drowns the effect
    assert broken.low < 0.0 < broken.high


def test_ratio_by_hand() -> None:
    """Reached 2 of 4 and 4 of 4: 6/8; residuals -1 and 1, s = sqrt 2, error = 1 / mean(4, 4)."""
    half = 12.706205 * (math.sqrt(2) / math.sqrt(2)) / 4
    assert ratio_interval([2, 4], [4, 4]) == pytest.approx((0.75, 0.75 - half, 0.75 + half), rel=1e-6)
    assert ratio_interval([1], [2]) == (0.5, -math.inf, math.inf)
