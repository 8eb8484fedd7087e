"""Shares of a curriculum: the paper's formula with its numbers, the frontier of its text, the floor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.maths.curriculum import curriculum_shares

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def test_literal_has_the_printed_formulas_numbers() -> None:
    shares = curriculum_shares(RATES, "literal", tau=0.5, floor=0.0)
    assert shares.round(2).tolist() == [0.43, 0.26, 0.16, 0.10, 0.06]
    assert shares.sum() == pytest.approx(1.0)


def test_frontier_is_highest_at_one_half_and_alike_on_both_sides() -> None:
    """By hand: e^-1, e^-0.5, 1 against their sum, 2 (0.3679 + 0.6065) + 1 = 2.9488."""
    shares = curriculum_shares(RATES, "frontier", tau=0.5, floor=0.0)
    assert shares.tolist() == pytest.approx([0.1248, 0.2057, 0.3391, 0.2057, 0.1248], abs=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "literal", "frontier"])
@pytest.mark.parametrize("tau", [1e-4, 0.5, 100.0])
def test_every_one_keeps_its_floor(kind: Any, tau: float) -> None:
    shares = curriculum_shares(np.linspace(0, 1, 11), kind, tau=tau, floor=0.2)
    assert shares.sum() == pytest.approx(1.0) and shares.min() >= 0.2 / 11 - 1e-12
    assert curriculum_shares(RATES, kind, tau=tau, floor=1.0).tolist() == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("rates", [[], [[0.5]], [1.1], [-0.1], [float("nan")]])
def test_what_is_no_rate_is_refused(rates: Any) -> None:
    with pytest.raises(InputError, match="success"):
        curriculum_shares(rates, "literal", tau=0.5, floor=0.1)
