"""Mass and friction of a block from its accelerations, whose exact deviations follow from the Fisher information."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from toddle.maths.identification import Residuals, identify

MASS, FRICTION, GRAVITY = 0.5, 0.3, 9.81
BOX = {"low": (0.05, 0.03), "high": (5.0, 3.0)}


def block(forces: Sequence[float], deviation: float, seed: int) -> Residuals:
    """Accelerations F / m - mu g, each measured with a deviation."""
    pushed = np.asarray(forces)
    noise = deviation * np.random.default_rng(seed).normal(size=len(pushed))
    measured = pushed / MASS - FRICTION * GRAVITY + noise
    return lambda theta: pushed / theta[:, :1] - theta[:, 1:] * GRAVITY - measured


def test_two_forces_tell_mass_from_friction() -> None:
    """Deviations 0.0025 and 0.0032 by the Fisher information of 50 measurements at 2 N and 50 at 4 N (0.1 m/s2)."""
    mass, friction = identify(block([2.0] * 50 + [4.0] * 50, 0.1, seed=1), **BOX)
    for found, truth, deviation in ((mass, MASS, 0.0025), (friction, FRICTION, 0.0032)):
        assert found.identified and abs(found.value - truth) < 3.5 * deviation
        assert (found.high - found.low) / 2 == pytest.approx(1.98 * deviation, rel=0.2)


def test_a_free_slide_says_nothing_of_the_mass() -> None:
    """And the friction to 0.1 / (g sqrt(100)) = 0.00102."""
    mass, friction = identify(block([0.0] * 100, 0.1, seed=2), **BOX)
    assert (mass.low, mass.high, mass.identified) == (pytest.approx(0.05), pytest.approx(5.0), False)
    assert friction.identified and (friction.high - friction.low) / 2 == pytest.approx(1.98 * 0.00102, rel=0.25)


def test_one_force_leaves_a_valley() -> None:
    """F / m - mu g alone is known: a larger friction is a smaller mass."""
    mass, friction = identify(block([4.0] * 100, 0.1, seed=3), **BOX)
    assert not friction.identified and mass.low < 0.35 and mass.high > 0.5


def test_intervals_cover_the_truth() -> None:
    """In 95 % of draws; 60 draws of 40 measurements."""
    covered = 0
    for seed in range(60):
        one = block([2.0] * 20 + [4.0] * 20, 0.1, seed=100 + seed)
        friction = identify(lambda theta, one=one: one(np.c_[np.full(len(theta), MASS), theta]), [0.03], [3.0])[0]
        covered += friction.low <= FRICTION <= friction.high
    assert covered >= 53  # at most 1 % of binomials of 0.95 are below


def test_exact_measurements_are_found_exactly() -> None:
    mass, friction = identify(block([2.0, 3.0, 4.0] * 5, 0.0, seed=0), **BOX)
    assert mass.value == pytest.approx(MASS, rel=1e-4) and friction.value == pytest.approx(FRICTION, rel=1e-4)
    assert mass.low <= MASS <= mass.high and mass.identified
