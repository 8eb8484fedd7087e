"""The multiplier's steps and the mixed advantage, by closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from toddle.maths.lagrangian import mixed_advantage, risen, violation


@pytest.mark.parametrize(("multiplier", "deviation"), [(0, 1.0), (0.5, 0.745), (1, 0.707), (10, 0.914), (100, 0.990)])
def test_the_step_hardly_depends_on_the_multiplier(multiplier: float, deviation: float) -> None:
    """sqrt(1 + l^2) / (1 + l) for independent advantages, whatever their scales."""
    reward, cost = torch.randn(2, 200, 1000, generator=torch.Generator().manual_seed(0))
    mixed = mixed_advantage(7.0 * reward + 3.0, 0.01 * cost, multiplier)
    assert float(mixed.std()) == pytest.approx(deviation, abs=0.004)
    assert deviation == pytest.approx(math.hypot(1.0, multiplier) / (1.0 + multiplier), abs=6e-4)


def test_steps_follow_the_violation() -> None:
    """Plain steps, not Adam's: a violation of a hundredth moves it by a hundredth of what a whole one does."""
    assert violation(30.0, 10.0) == 2.0 and violation(10.1, 10.0) == pytest.approx(0.01)
    assert violation(0.4, 0.0) == 0.4  # no cost at all is a limit too
    value = 0.0
    for _ in range(20):  # twice the limit, then nothing
        value = risen(value, violation(20.0, 10.0), rate=0.05)
    assert value == pytest.approx(1.0)
    for _ in range(40):
        value = risen(value, violation(0.0, 10.0), rate=0.05)
    assert value == 0.0
