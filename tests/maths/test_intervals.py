"""Intervals against published tables, hand arithmetic and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from toddle.core.errors import InputError
from toddle.maths.intervals import (
    bootstrap_interval,
    interquartile_mean,
    paired_bootstrap_interval,
    paired_bootstrap_p,
    probability_of_improvement,
    sign_flip_p,
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


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6]) == pytest.approx(6.5)  # 39 / 6 in the middle
    assert interquartile_mean([1, 3, 5, 7, 9, 11, 13, 15, 17]) == pytest.approx(9.0)
    assert interquartile_mean([0.0, 10.0, 100.0]) == pytest.approx((0.25 * 0 + 10 + 0.25 * 100) / 1.5)
    assert interquartile_mean([4.0]) == 4.0


def test_interquartile_mean_equals_trim_mean_for_multiples_of_four() -> None:
    values = np.random.default_rng(1).normal(size=(3, 16))
    assert np.allclose(interquartile_mean(values), scipy.stats.trim_mean(values, 0.25, axis=1))


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(2).exponential(size=25)
    ours = bootstrap_interval(values, resamples=20_000)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=0)
    assert ours.value == pytest.approx(values.mean())
    assert ours[1:] == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_bootstrap_resamples_seeds_not_what_lies_within_them() -> None:
    """Three seeds of 400 equal episodes each carry no more evidence than three numbers."""
    seeds = np.array([0.0, 1.0, 2.0])
    alone = bootstrap_interval(seeds)
    repeated = bootstrap_interval(np.repeat(seeds[:, None], 400, axis=1))
    pooled = bootstrap_interval(np.repeat(seeds, 400))  # the mistake: episodes taken for seeds
    assert repeated == pytest.approx(alone)
    assert pooled.high - pooled.low < 0.1 * (alone.high - alone.low)


def test_bootstrap_is_reproducible_and_refuses_nan() -> None:
    values = [1.0, 2.0, 5.0]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    with pytest.raises(InputError):
        bootstrap_interval([1.0, float("nan")])


def test_pairing_removes_what_the_seeds_share() -> None:
    generator = np.random.default_rng(4)
    shared = generator.normal(0.0, 10.0, size=8)
    a, b = shared + 1.0 + generator.normal(0, 0.1, 8), shared
    paired = paired_bootstrap_interval(a, b)
    assert paired.low > 0.8 and paired.high < 1.2
    assert paired_bootstrap_p(a, b) < 0.001
    assert paired_bootstrap_p(b, a) > 0.99
    shuffled = paired_bootstrap_interval(a, b[::-1])  # pairs broken: the shared part drowns the effect
    assert shuffled.low < 0.0 < shuffled.high
    with pytest.raises(InputError):
        paired_bootstrap_p([1.0, 2.0], [1.0])


def test_paired_p_against_full_enumeration() -> None:
    """Differences 1, 1, -1: mean* <= 0 means at least 2 of 3 draws are -1: 7/27."""
    assert paired_bootstrap_p([1.0, 1.0, -1.0], [0.0, 0.0, 0.0], resamples=100_000) == pytest.approx(7 / 27, abs=0.005)


def test_sign_flip_is_exact_for_few_seeds() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == pytest.approx(1 / 8)
    oracle = scipy.stats.permutation_test(
        (np.array([1.0, -0.5, 2.0, 0.3, 0.9]),),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert sign_flip_p([1.0, -0.5, 2.0, 0.3, 0.9], np.zeros(5)) == pytest.approx(oracle.pvalue)


def test_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    a, b = [3.0, 5.0, 5.0, 1.0], [2.0, 5.0, 0.0]
    oracle = scipy.stats.mannwhitneyu(a, b).statistic / 12
    interval = probability_of_improvement(a, b)
    assert interval.value == pytest.approx(oracle)
    assert interval.low <= interval.value <= interval.high
    assert probability_of_improvement([1.0], [1.0]).value == 0.5
