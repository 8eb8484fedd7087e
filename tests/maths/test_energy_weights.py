"""Weights by returns: the effective sample size that was asked for, monotone, and nothing where returns say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from toddle.maths.energy_weights import effective_share, energy_weights

RETURNS = np.random.default_rng(0).exponential(size=2000)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_the_effective_sample_size_is_met(share: float) -> None:
    weights = energy_weights(RETURNS, share)
    assert effective_share(weights) == pytest.approx(share, abs=1e-3) and weights.mean() == pytest.approx(1.0)
    assert (np.diff(weights[np.argsort(RETURNS)]) >= 0).all()
    log = np.log(weights)
    slope = np.ptp(log) / np.ptp(RETURNS)  # exp(alpha R), whatever the units of R
    np.testing.assert_allclose(log - log.min(), slope * (RETURNS - RETURNS.min()), atol=1e-9)
    np.testing.assert_allclose(energy_weights(1000.0 * RETURNS - 7.0, share), weights, rtol=1e-4)


def test_half_of_two_kinds() -> None:
    """Half the returns 1, half 0: weights 1 and e^-a; (1 + e^-a)^2 / 2 (1 + e^-2a) = 0.8 gives e^-a = 1/3."""
    weights = energy_weights(np.array([0.0, 1.0] * 50), 0.8)
    assert weights[1] / weights[0] == pytest.approx(3.0, rel=1e-3)


def test_equal_returns_weigh_alike_and_one_success_keeps_the_rest() -> None:
    assert energy_weights(np.full(5, 3.0), 0.3).tolist() == [1.0] * 5
    one = energy_weights(np.array([1.0] + [0.0] * 9), 0.05)  # a tenth is the least: alpha stops at its largest
    assert effective_share(one) == pytest.approx(0.1, abs=1e-3)
    assert energy_weights(RETURNS, 1.0).std() < 1e-3
